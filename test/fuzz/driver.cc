// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a fuzz target without libFuzzer: every file of the corpus, then mutations of them until the time is over.
//   fuzz_NAME [--seconds S] [--seed N] [--keep DIR] [--hang S] [FILE or DIR]…
// The seed is printed; the same seed and corpus make the same inputs. An input that crashes, hangs or takes too much memory is
// written to DIR (default: the current one) as crash-NAME-HASH; give that file as an argument to run it alone.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "fuzz/input.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using Bytes = std::vector<unsigned char>;
using Clock = std::chrono::steady_clock;

constexpr long kMemoryMaxKib = 2l << 20;  // of the process, at its highest
constexpr std::size_t kInputMax = 4096;

unsigned hang_seconds = 60;  // of one input; a loaded machine included
const unsigned char* current_data = nullptr;
std::size_t current_size = 0;
char crash_prefix[512];

// Async-signal-safe.
void keep_current() {
  if (current_data == nullptr) return;
  unsigned long long hash = 14695981039346656037u;
  for (std::size_t i = 0; i < current_size; ++i) hash = (hash ^ current_data[i]) * 1099511628211u;
  char path[600];
  std::size_t n = 0;
  for (; crash_prefix[n] != 0; ++n) path[n] = crash_prefix[n];
  for (int shift = 60; shift >= 0; shift -= 4) path[n++] = "0123456789abcdef"[hash >> shift & 15];
  path[n] = 0;
  const int fd = ::open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return;
  (void)!::write(fd, current_data, current_size);
  ::close(fd);
  (void)!::write(2, "fuzz: the input is in ", 22);
  (void)!::write(2, path, n);
  (void)!::write(2, "\n", 1);
  current_data = nullptr;
}

void on_signal(int number) {
  if (number == SIGALRM) (void)!::write(2, "fuzz: hang\n", 11);
  keep_current();
  ::signal(number, SIG_DFL);
  ::raise(number == SIGALRM ? SIGABRT : number);
}

void run(const Bytes& input) {
  current_data = input.data();
  current_size = input.size();
  ::alarm(hang_seconds);
  LLVMFuzzerTestOneInput(input.data(), input.size());
  ::alarm(0);
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  FUZZ_REQUIRE(usage.ru_maxrss < kMemoryMaxKib, "too much memory");
  current_data = nullptr;
}

class Mutator {
 public:
  Mutator(std::uint64_t seed, const std::vector<Bytes>& corpus) : rng_(seed), corpus_(corpus) {}

  Bytes next() {
    if (corpus_.empty() || rng_() % 8 == 0) return random();
    Bytes out = corpus_[rng_() % corpus_.size()];
    for (std::uint64_t n = 1 + rng_() % 6; n > 0; --n) mutate(out);
    if (out.size() > kInputMax) out.resize(kInputMax);
    return out;
  }

 private:
  Bytes random() {
    Bytes out(1 + rng_() % 200);
    for (auto& b : out) b = static_cast<unsigned char>(rng_());
    return out;
  }
  void mutate(Bytes& b) {
    if (b.empty()) b.push_back(0);
    const std::size_t at = rng_() % b.size();
    const auto place = b.begin() + static_cast<std::ptrdiff_t>(at);
    static constexpr unsigned char kOdd[] = {0, 1, 2, 7, 8, 16, 31, 32, 63, 64, 127, 128, 254, 255};
    switch (rng_() % 8) {
      case 0: b[at] = static_cast<unsigned char>(b[at] ^ 1u << rng_() % 8); break;
      case 1: b[at] = static_cast<unsigned char>(rng_()); break;
      case 2: b[at] = kOdd[rng_() % sizeof kOdd]; break;
      case 3: b[at] = static_cast<unsigned char>(b[at] + rng_() % 17 - 8); break;
      case 4: b.insert(place, 1 + rng_() % 8, static_cast<unsigned char>(rng_())); break;
      case 5: b.erase(place, place + static_cast<std::ptrdiff_t>(std::min<std::size_t>(1 + rng_() % 8, b.size() - at))); break;
      case 6: {  // a piece of another input
        const Bytes& other = corpus_[rng_() % corpus_.size()];
        if (other.empty()) break;
        const std::size_t from = rng_() % other.size();
        const std::size_t length = std::min<std::size_t>(1 + rng_() % 32, other.size() - from);
        const Bytes piece(other.begin() + static_cast<std::ptrdiff_t>(from),
                          other.begin() + static_cast<std::ptrdiff_t>(from + length));
        b.insert(place, piece.begin(), piece.end());
        break;
      }
      default: {  // a piece again
        const Bytes piece(place, place + static_cast<std::ptrdiff_t>(std::min<std::size_t>(1 + rng_() % 32, b.size() - at)));
        b.insert(b.end(), piece.begin(), piece.end());
      }
    }
  }

  std::mt19937_64 rng_;
  const std::vector<Bytes>& corpus_;
};

Bytes load(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(in), {});
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  std::uint64_t seed = std::random_device{}();
  if (const char* text = std::getenv("PINDAX_SEED")) seed = std::strtoull(text, nullptr, 0);
  std::string keep = ".";
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (a == "--seconds") seconds = std::atof(value), ++i;
    else if (a == "--seed") seed = std::strtoull(value, nullptr, 0), ++i;
    else if (a == "--keep") keep = value, ++i;
    else if (a == "--hang") hang_seconds = static_cast<unsigned>(std::atoi(value)), ++i;
    else if (std::filesystem::is_directory(a))
      for (const auto& e : std::filesystem::directory_iterator(a)) files.push_back(e.path());
    else files.emplace_back(a);
  }
  std::sort(files.begin(), files.end());
  const std::string name = std::filesystem::path(argv[0]).filename().string();
  std::snprintf(crash_prefix, sizeof crash_prefix, "%s/crash-%s-", keep.c_str(), name.c_str());
  std::printf("%s: %zu files, PINDAX_SEED=%llu\n", name.c_str(), files.size(), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM})
    if (number == SIGALRM || number == SIGABRT || __sanitizer_set_death_callback == nullptr) ::signal(number, on_signal);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_current);

  std::vector<Bytes> corpus;
  for (const auto& f : files) {
    corpus.push_back(load(f));
    run(corpus.back());
  }
  Mutator mutator(seed, corpus);
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::uint64_t runs = files.size();
  for (; Clock::now() < until; ++runs) run(mutator.next());
  std::printf("%s: %llu inputs, no promise broken\n", name.c_str(), static_cast<unsigned long long>(runs));
  return 0;
}
