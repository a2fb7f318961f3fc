// SPDX-License-Identifier: BSD-3-Clause
#include "fuse/node_table.h"

#include <map>

#include "fs/helpers.h"

namespace pindax {
namespace {

using namespace test;

TEST_CASE("fuse: the kernel's lookups are counted as a map counts them, however many nodes come and go") {
  TestFs fs;
  {
    std::vector<InodeRef> all;
    for (int i = 0; i < 1500; ++i) all.push_back(fs.make(*fs.root(), "f" + std::to_string(i)));
    NodeTable table(fs.root());
    std::map<u64, u64> model;
    std::minstd_rand random(static_cast<unsigned>(seed()));
    const auto check = [&] {
      for (const InodeRef& i : all) {
        const bool known = model.contains(i->ino.value);
        if (table.knows(i->ino) != known || table.find(i->ino.value) != (known ? i : InodeRef())) FAIL("inode " << i->ino.value);
        if (i->refs.load() != (known ? 2 : 1)) FAIL("references of inode " << i->ino.value);
      }
    };
    for (int phase = 0; phase < 6; ++phase) {
      const bool fills = phase % 2 == 0;
      for (int step = 0; step < 12'000; ++step) {
        const InodeRef& i = all[random() % all.size()];
        if (random() % 10 < (fills ? 7u : 3u)) {
          table.add(i);
          ++model[i->ino.value];
          continue;
        }
        const u64 most = fills ? 1 : ~u64{0};
        table.forget(i->ino.value, most);
        if (auto it = model.find(i->ino.value); it != model.end() && (it->second -= std::min(it->second, most)) == 0) model.erase(it);
      }
      check();
    }
    CHECK(table.find(kRootNode) == fs.root());
    table.clear();
    model.clear();
    check();
  }
}

}  // namespace
}  // namespace pindax
