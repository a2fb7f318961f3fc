// SPDX-License-Identifier: BSD-3-Clause
//
// Text for people: tables that fit a terminal, sizes, ages, names that cannot smuggle escape sequences.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/types.h"

namespace pindax::tools {

// "4K", "1M", "1.5G", "12345", "0x1000" -> bytes. Suffixes K M G T P E are powers of 1024, with or without iB or B.
Result<u64> parse_size(std::string_view text);
// "60s", "200ms", "2m", "1h", "5" (seconds) -> milliseconds.
Result<u64> parse_duration_ms(std::string_view text);

std::string size_text(u64 bytes);         // "16 MiB", "4 KiB", "12 B": exact where it can be
std::string age_text(u64 milliseconds);   // "350 ms", "4.2 s", "3 min", "2 h"
std::string range_text(u64 offset, u64 length);  // "[1 MiB, +4 KiB)"

// Control characters and invalid UTF-8 become \xNN: a file name must not drive a terminal.
std::string escape(std::string_view name);

// Left-aligned columns, the numeric ones right-aligned. So that lines fit `width`, first the columns marked `flexible` are
// shortened, then those with the highest `extra` are left out, one after the other.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;
    bool flexible = false;
    int extra = 0;  // 0: always shown
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells);
  std::string text(unsigned width) const;  // one line a row, heading first, each ending with a newline
  bool empty() const { return rows_.empty(); }
  std::size_t rows() const { return rows_.size(); }

 private:
  std::vector<std::size_t> fit(unsigned width) const;  // 0: left out

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};
std::string wrap(std::string_view text, unsigned width, unsigned indent);  // with a newline at the end
unsigned terminal_width();  // of standard output, COLUMNS, or 80

}  // namespace pindax::tools
