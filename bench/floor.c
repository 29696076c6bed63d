/* The least that reading costs: `floor LIST` keeps every file that LIST names open.
 *
 * Each line on standard input makes it pread them all once; a name that ends in "/" is a
 * directory, of which the xattr user.worker.health is asked for instead. It answers with one line:
 * CPU nanoseconds of its own, bytes read, failed reads. It says "ready N" first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int *files, *directories;
static unsigned file_count, directory_count;
static char content[65536];

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t cpu_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void keep(char *path)
{
	size_t length = strlen(path);
	int is_directory = path[length - 1] == '/';
	int descriptor = open(path, O_RDONLY | O_CLOEXEC | (is_directory ? O_DIRECTORY : 0));

	if (descriptor < 0)
		fail(path);
	if (is_directory)
		directories[directory_count++] = descriptor;
	else
		files[file_count++] = descriptor;
}

static void read_all(void)
{
	uint64_t start = cpu_ns(), bytes = 0;
	unsigned failed = 0;

	for (unsigned i = 0; i < file_count; i++) {
		ssize_t size = pread(files[i], content, sizeof content, 0);
		if (size < 0)
			failed++;
		else
			bytes += size;
	}
	for (unsigned i = 0; i < directory_count; i++)
		fgetxattr(directories[i], "user.worker.health", content, sizeof content);
	printf("%llu %llu %u\n", (unsigned long long)(cpu_ns() - start),
	       (unsigned long long)bytes, failed);
	fflush(stdout);
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
	files = calloc(whole, sizeof *files);
	directories = calloc(whole, sizeof *directories);
	if (!files || !directories)
		fail("memory");
	while (fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		keep(line);
	}
	printf("ready %u\n", whole);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin))
		read_all();
	return 0;
}
