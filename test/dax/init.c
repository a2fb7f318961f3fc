/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The emulated machine's init, linked statically: loads the modules of the initrd, makes the host's files its root (read-only, under a
 * layer in memory), runs the job that the kernel's command line names, and ends the machine with the job's exit code.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/module.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kExitPort = 0xf4 };

/* QEMU's exit code becomes 2 * code + 1. */
static _Noreturn void end(int code) {
  fflush(stdout);
  usleep(100000); /* the console is a serial line */
  if (ioperm(kExitPort, 4, 1) == 0) outb((unsigned char)code, kExitPort);
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

static void must(int result, const char *what) {
  if (result == 0) return;
  printf("init: %s: %s\n", what, strerror(errno));
  end(100);
}

static void load_modules(void) {
  FILE *list = fopen("/modules/order", "r");
  char name[256];
  while (list != NULL && fgets(name, sizeof name, list) != NULL) {
    name[strcspn(name, "\n")] = '\0';
    const int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", MODULE_INIT_COMPRESSED_FILE) != 0 && errno != EEXIST))
      printf("init: module %s: %s\n", name, strerror(errno));
    if (fd >= 0) close(fd);
  }
}

static void make_root(void) {
  mkdir("/host", 0755);
  mkdir("/layer", 0755);
  mkdir("/new", 0755);
  must(mount("root", "/host", "virtiofs", MS_RDONLY, NULL), "the host's files");
  must(mount("layer", "/layer", "tmpfs", 0, "size=50%"), "tmpfs");
  mkdir("/layer/upper", 0755);
  mkdir("/layer/work", 0755);
  must(mount("root", "/new", "overlay", 0, "lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work"), "overlay");
  must(mount("dev", "/new/dev", "devtmpfs", 0, NULL), "devtmpfs");
  must(mount("proc", "/new/proc", "proc", 0, NULL), "proc");
  must(mount("sys", "/new/sys", "sysfs", 0, NULL), "sysfs");
  mkdir("/new/dev/shm", 01777);
  mkdir("/new/dev/pts", 0755);
  must(mount("shm", "/new/dev/shm", "tmpfs", 0, "size=50%"), "tmpfs");
  must(mount("pts", "/new/dev/pts", "devpts", 0, NULL), "devpts");
  must(mount("run", "/new/run", "tmpfs", 0, NULL), "tmpfs");
  must(mount("tmp", "/new/tmp", "tmpfs", 0, NULL), "tmpfs");
  mount("fusectl", "/new/sys/fs/fuse/connections", "fusectl", 0, NULL);
  must(chdir("/new"), "chdir");
  must(chroot("."), "chroot");
  must(chdir("/"), "chdir");
}

/* Words behind "job=" on the command line, up to its end. */
static char *job(void) {
  static char line[4096];
  const int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  const ssize_t n = read(fd, line, sizeof line - 1);
  if (n <= 0) return NULL;
  line[strcspn(line, "\n")] = '\0';
  char *at = strstr(line, "job=");
  return at == NULL ? NULL : at + 4;
}

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  load_modules();
  make_root();
  char *command = job();
  if (command == NULL) end(101);
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
  }
  for (;;) {
    int status = 0;
    const pid_t ended = wait(&status);
    if (ended == child) end(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    if (ended < 0 && errno == ECHILD) end(102);
  }
}
