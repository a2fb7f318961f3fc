/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A whole Pindax client. Usage: pindax-example MOUNT /FILE
 *
 * It maps the first page of FILE, stores a greeting at memory speed, makes it durable, and pins the page while it
 * "works" on it: no truncate or punch can take the page away in that time.
 */
#include <fcntl.h>
#include <pindax/pindax.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static int failed(const char *what) {
  fprintf(stderr, "%s: %s\n", what, pindax_last_error());
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s MOUNT /FILE\n", argv[0]);
    return 2;
  }

  /* A session with the daemon behind the mount (or behind a socket of pindaxd --no-mount). */
  struct pindax_client *client;
  if (pindax_attach(argv[1], NULL, &client) != 0) return failed("attach");

  int fd = pindax_open(client, argv[2], O_RDWR, 0);
  if (fd < 0) return failed("open");

  /* One address range, however scattered the file's blocks are. */
  struct pindax_mapping *mapping;
  if (pindax_map(client, fd, 0, 4096, PROT_READ | PROT_WRITE, PINDAX_MAP_POPULATE, &mapping) != 0) return failed("map");
  char *memory = pindax_mapping_address(mapping);

  const char *why;
  printf("mapped %s %s\n", argv[2], pindax_is_direct(client, &why) ? "directly" : why);

  /* A pin for writing: from here to unpin these blocks stay where they are. */
  struct pindax_pin pin;
  if (pindax_pin(mapping, 0, 4096, PINDAX_PIN_WRITE, &pin) != 0) return failed("pin");
  strcpy(memory, "Hello from a direct mapping");
  if (pindax_persist(mapping, 0, 4096) != 0) return failed("persist");
  if (pindax_unpin(mapping, &pin) != 0) return failed("unpin");

  printf("stored, persisted, and pinned meanwhile: \"%s\"\n", memory);

  pindax_unmap(mapping);
  pindax_close(client, fd);
  return pindax_detach(client) == 0 ? 0 : failed("detach");
}
