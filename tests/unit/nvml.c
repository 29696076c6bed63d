/* A stand-in for NVIDIA's libnvidia-ml.so.1. The environment says what the host is like:
 *   NVML_GPUS     "free/total[:migs]" in MiB for each GPU, with spaces between; "lost" is a GPU that
 *                 does not answer, "-" in place of free/total one that does not tell its memory
 *   NVML_INIT     a number: what nvmlInit returns; "hang": it never returns; "crash": it crashes
 *   NVML_CALLS    a file that gets a line for each nvmlInit
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK 0
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define GPU_IS_LOST 15

struct device { unsigned gpu; int mig; };
struct memory { unsigned long long total, free, used; };

static struct device devices[16][9];

/* The text of a GPU; NULL when there is none of this number. */
static char *gpu_text(unsigned index) {
  static char copy[1024];
  strncpy(copy, getenv("NVML_GPUS") ? getenv("NVML_GPUS") : "", sizeof copy - 1);
  char *word = strtok(copy, " ");
  while (word && index--) word = strtok(NULL, " ");
  return word;
}

int nvmlInitWithFlags(unsigned flags) {
  char *calls = getenv("NVML_CALLS"), *init = getenv("NVML_INIT");
  if (calls) {
    char line[32];
    int file = open(calls, O_WRONLY | O_CREAT | O_APPEND, 0600);
    write(file, line, sprintf(line, "%d\n", getpid()));
    close(file);
  }
  if (!init) return OK;
  if (!strcmp(init, "crash")) abort();
  while (!strcmp(init, "hang")) pause();
  return atoi(init);
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { for (;;) pause(); }

const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "Some Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  for (*count = 0; gpu_text(*count); ++*count) {}
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
  if (!strcmp(gpu_text(index), "lost")) return GPU_IS_LOST;
  *device = &devices[index][0];
  **device = (struct device){index, -1};
  return OK;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
  if (device->mig < 0) snprintf(uuid, length, "GPU-%02u", device->gpu);
  else snprintf(uuid, length, "MIG-%02u-%d", device->gpu, device->mig);
  return OK;
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length) {
  snprintf(name, length, device->mig < 0 ? "Test GPU" : "Test GPU MIG 1g");
  return OK;
}

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory) {
  unsigned long long free_mib, total_mib;
  if (sscanf(gpu_text(device->gpu), "%llu/%llu", &free_mib, &total_mib) != 2) return NOT_SUPPORTED;
  *memory = (struct memory){total_mib << 20, free_mib << 20, (total_mib - free_mib) << 20};
  /* The parts of a GPU grow, so that the last one has most. */
  if (device->mig >= 0) memory->free = (free_mib + device->mig) << 20;
  return OK;
}

static int migs(unsigned index) {
  char *colon = strchr(gpu_text(index), ':');
  return colon ? atoi(colon + 1) : -1;
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending) {
  if (migs(device->gpu) < 0) return NOT_SUPPORTED;
  *current = *pending = 1;
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) {
  *count = 7;
  return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *parent, unsigned place, struct device **mig) {
  if ((int)place >= migs(parent->gpu)) return NOT_FOUND;
  *mig = &devices[parent->gpu][place + 1];
  **mig = (struct device){parent->gpu, (int)place};
  return OK;
}
