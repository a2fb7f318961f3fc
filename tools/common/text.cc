// SPDX-License-Identifier: BSD-3-Clause
#include "common/text.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

namespace pindax::tools {
namespace {

// The number at the front of `text`; the rest is left in `suffix`.
std::optional<double> leading_number(std::string_view text, std::string_view& suffix) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() || !(value >= 0) || !std::isfinite(value)) return std::nullopt;
  suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  return value;
}

// Length of the valid UTF-8 sequence at the front of `s`, or 0.
std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = byte(0);
  const std::size_t n = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
  if (n == 0 || n > s.size()) return 0;
  for (std::size_t i = 1; i < n; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  return n;
}

// Columns that a cell takes, counting code points.
std::size_t cell_width(std::string_view s) {
  return static_cast<std::size_t>(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// The tail of a cell (the end of a path tells more than its start).
std::string shorten(const std::string& s, std::size_t width) {
  if (cell_width(s) <= width || width < 2) return s;
  std::size_t drop = cell_width(s) - (width - 1);
  std::size_t i = 0;
  while (drop > 0 && i < s.size()) {
    ++i;
    while (i < s.size() && (s[i] & 0xc0) == 0x80) ++i;
    --drop;
  }
  return "…" + s.substr(i);
}

}  // namespace

Result<u64> parse_size(std::string_view text) {
  const auto bad = [&] {
    return Status(Errc::kInvalid, fmt::format("'{}' is not a size: say for example 4096, 4K, 16M or 1.5G", text));
  };
  if (text.starts_with("0x")) {
    u64 value = 0;
    auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), value, 16);
    if (error != std::errc() || end != text.data() + text.size()) return bad();
    return value;
  }
  u64 whole = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), whole);
  if (error == std::errc() && end == text.data() + text.size()) return whole;  // exact beyond 2^53
  std::string_view suffix;
  auto number = leading_number(text, suffix);
  if (!number) return bad();
  if (suffix.empty()) return bad();
  constexpr std::string_view kUnits = "KMGTPE";
  const auto unit = kUnits.find(static_cast<char>(std::toupper(static_cast<unsigned char>(suffix[0]))));
  const auto rest = suffix.substr(1);
  if (unit == std::string_view::npos || !(rest.empty() || rest == "B" || rest == "iB")) return bad();
  const double bytes = std::ldexp(*number, static_cast<int>(10 * (unit + 1)));
  if (bytes >= 18446744073709549568.0) return bad();
  return static_cast<u64>(bytes);
}

Result<u64> parse_duration_ms(std::string_view text) {
  std::string_view suffix;
  auto number = leading_number(text, suffix);
  double scale = 0;
  if (suffix.empty() || suffix == "s") scale = 1000;
  else if (suffix == "ms") scale = 1;
  else if (suffix == "m" || suffix == "min") scale = 60'000;
  else if (suffix == "h") scale = 3'600'000;
  if (!number || scale == 0 || *number * scale > 1e15)
    return Status(Errc::kInvalid, fmt::format("'{}' is not a time: say for example 30s, 200ms, 5m or 1h", text));
  return static_cast<u64>(*number * scale);
}

std::string size_text(u64 bytes) {
  static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  unsigned unit = 0;
  while (unit < 6 && (bytes >> (10 * (unit + 1))) != 0) ++unit;
  const u64 size = u64{1} << (10 * unit);
  if (bytes % size == 0) return fmt::format("{} {}", bytes / size, kNames[unit]);
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(size), kNames[unit]);
}

std::string age_text(u64 ms) {
  if (ms < 1000) return fmt::format("{} ms", ms);
  if (ms < 60'000) return fmt::format("{}.{} s", ms / 1000, ms % 1000 / 100);
  if (ms < 3'600'000) return fmt::format("{} min {} s", ms / 60'000, ms % 60'000 / 1000);
  return fmt::format("{} h {} min", ms / 3'600'000, ms % 3'600'000 / 60'000);
}

std::string range_text(u64 offset, u64 length) {
  // Exact, in the largest unit that is: two neighbours must not look the same.
  const auto exact = [](u64 n) {
    unsigned shift = 0;
    while (shift < 40 && n != 0 && n % (u64{1} << (shift + 10)) == 0) shift += 10;
    static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    return fmt::format("{} {}", n >> shift, kNames[shift / 10]);
  };
  constexpr u64 kEndless = u64{1} << 62;  // longer than any file
  if (length == 0 || length >= kEndless) return fmt::format("{} to the end", exact(offset));
  return fmt::format("{} +{}", exact(offset), exact(length));
}

std::string escape(std::string_view name) {
  std::string out;
  while (!name.empty()) {
    const auto n = utf8_length(name);
    const auto c = static_cast<unsigned char>(name[0]);
    const bool c1_control = n == 2 && c == 0xc2 && static_cast<unsigned char>(name[1]) < 0xa0;
    if (n == 0 || c < 0x20 || c == 0x7f || c1_control) {
      out += fmt::format("\\x{:02x}", c);
      name.remove_prefix(1);
    } else {
      out.append(name.substr(0, n));
      name.remove_prefix(n);
    }
  }
  return out;
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::vector<std::size_t> Table::fit(unsigned width) const {
  std::vector<std::size_t> full, least;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t w = cell_width(columns_[c].title);
    for (const auto& row : rows_) w = std::max(w, cell_width(row[c]));
    full.push_back(w);
    least.push_back(columns_[c].flexible ? std::min(w, std::max<std::size_t>(8, cell_width(columns_[c].title))) : w);
  }
  std::vector<bool> shown(columns_.size(), true);
  const auto total = [&](const std::vector<std::size_t>& widths) {
    std::size_t sum = 0;
    for (std::size_t c = 0; c < widths.size(); ++c) sum += shown[c] ? widths[c] + 2 : 0;
    return sum;
  };
  while (total(least) > width + 2) {
    std::size_t last = columns_.size();
    for (std::size_t c = 0; c < columns_.size(); ++c)
      if (shown[c] && columns_[c].extra > 0 && (last == columns_.size() || columns_[c].extra > columns_[last].extra)) last = c;
    if (last == columns_.size()) break;
    shown[last] = false;
  }
  // What is too much comes off the widest of the flexible ones.
  while (total(full) > width + 2) {
    std::size_t widest = columns_.size();
    for (std::size_t c = 0; c < columns_.size(); ++c)
      if (shown[c] && full[c] > least[c] && (widest == columns_.size() || full[c] > full[widest])) widest = c;
    if (widest == columns_.size()) break;
    --full[widest];
  }
  for (std::size_t c = 0; c < columns_.size(); ++c)
    if (!shown[c]) full[c] = 0;
  return full;
}

std::string Table::text(unsigned width) const {
  const std::vector<std::size_t> widths = fit(width);
  std::string out;
  const auto line = [&](const auto& cell) {
    std::string text;
    bool first = true;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (widths[c] == 0) continue;
      const std::string shown = shorten(cell(c), widths[c]);
      const std::string pad(widths[c] - std::min(widths[c], cell_width(shown)), ' ');
      if (!std::exchange(first, false)) text += "  ";
      text += columns_[c].right ? pad + shown : shown + pad;
    }
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out += text + '\n';
  };
  line([&](std::size_t c) { return columns_[c].title; });
  for (const auto& row : rows_) line([&](std::size_t c) { return row[c]; });
  return out;
}

// Breaks between words; lines after the first are indented by `indent`.
std::string wrap(std::string_view text, unsigned width, unsigned indent) {
  const std::size_t lead = std::min(text.find_first_not_of(' '), text.size());
  std::string out(lead, ' ');
  text.remove_prefix(lead);
  std::size_t column = 0;  // 0: nothing on the line yet
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (column == 0) {
      column = lead;
    } else if (column + 1 + cell_width(word) > width) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
    } else {
      out += ' ';
      ++column;
    }
    out += word;
    column += cell_width(word);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out + '\n';
}

unsigned terminal_width() {
  struct winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0) return size.ws_col;
  if (const char* columns = std::getenv("COLUMNS"))
    if (const long n = std::strtol(columns, nullptr, 10); n >= 40 && n < 10000) return static_cast<unsigned>(n);
  return ::isatty(STDOUT_FILENO) != 0 ? 80 : 200;
}

}  // namespace pindax::tools
