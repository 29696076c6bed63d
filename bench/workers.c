/* Many tiny workers: `workers LIST` starts one process in each cgroup directory that LIST names.
 *
 * It says "ready N" when all sleep. Each line on standard input wakes them all: each burns
 * BURN_NS of CPU and takes or gives back PAGES pages, then sleeps again; "done" is said when all
 * have. They end when standard input does. A line "-" in LIST starts one in no cgroup of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BURN_NS 100000
#define PAGES 64
#define PAGE 4096

struct shared {
	atomic_uint turn; /* workers sleep on it */
	atomic_uint done; /* the parent sleeps on it */
};

static struct shared *shared;
static pid_t *pids;
static unsigned count;

static void fail(const char *what)
{
	fprintf(stderr, "workers: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void futex_wait(atomic_uint *word, unsigned value)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int most)
{
	syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0);
}

static uint64_t cpu_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void report(unsigned whole)
{
	/* The last one wakes the parent; the order of the others does not matter. */
	if (atomic_fetch_add(&shared->done, 1) + 1 == whole)
		futex_wake(&shared->done, 1);
}

static void work(unsigned turn)
{
	static char *memory;
	uint64_t until = cpu_ns() + BURN_NS;

	if (!memory)
		memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (turn % 2)
		for (unsigned page = 0; page < PAGES; page++)
			memory[page * PAGE] = 1;
	else
		madvise(memory, PAGES * PAGE, MADV_DONTNEED);
	while (cpu_ns() < until)
		;
}

static _Noreturn void live(pid_t parent, unsigned whole)
{
	unsigned seen = 0, turn;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	report(whole);
	for (;;) {
		while ((turn = atomic_load(&shared->turn)) == seen)
			futex_wait(&shared->turn, seen);
		seen = turn;
		work(turn);
		report(whole);
	}
}

static void start(const char *directory, unsigned whole)
{
	struct clone_args arguments = {.exit_signal = SIGCHLD};
	pid_t parent = getpid();

	if (strcmp(directory, "-")) {
		int cgroup = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (cgroup < 0)
			fail(directory);
		arguments.flags = CLONE_INTO_CGROUP;
		arguments.cgroup = cgroup;
	}
	pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (pid < 0)
		fail("clone3");
	if (pid == 0)
		live(parent, whole);
	if (arguments.flags)
		close(arguments.cgroup);
	pids[count++] = pid;
}

static void wait_for(unsigned whole)
{
	unsigned done;
	while ((done = atomic_load(&shared->done)) < whole)
		futex_wait(&shared->done, done);
}

static void stop(void)
{
	for (unsigned i = 0; i < count; i++)
		kill(pids[i], SIGKILL);
	while (wait(NULL) > 0)
		;
}

int main(int argc, char **argv)
{
	char line[4096];
	unsigned whole = 0;
	FILE *list = argc == 2 ? fopen(argv[1], "r") : NULL;

	if (!list)
		fail("LIST");
	while (fgets(line, sizeof line, list))
		whole++;
	rewind(list);
	pids = calloc(whole, sizeof *pids);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!pids || shared == MAP_FAILED)
		fail("memory");
	atexit(stop);
	while (fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		start(line, whole);
	}
	wait_for(whole);
	printf("ready %u\n", whole);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		atomic_store(&shared->done, 0);
		atomic_fetch_add(&shared->turn, 1);
		futex_wake(&shared->turn, INT32_MAX);
		wait_for(whole);
		puts("done");
		fflush(stdout);
	}
	return 0;
}
