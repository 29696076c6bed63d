/* A stand-in for NVIDIA's libnvidia-ml.so.1. What the host is like is in the file NVML_SCENARIO,
 * which is read again whenever it changed. A line is a word and its values, `#` begins a comment.
 *
 * Of the driver, before the first gpu:
 *   driver TEXT                  nvmlSystemGetDriverVersion
 *   return FUNCTION CODE         this function answers so
 *   hang FUNCTION [SECONDS]      this function does not return (so soon), unless the file changes
 *   crash FUNCTION               this function ends the process by SIGABRT
 *   print FUNCTION               this function prints a line to standard output
 * Of a GPU, or of the last MIG device; what has no line is NOT_SUPPORTED:
 *   gpu                          begins a GPU
 *   mig INSTANCE COMPUTE         begins a MIG device of this GPU (`mig` alone: divided, no device)
 *   uuid TEXT, name TEXT
 *   memory TOTAL RESERVED USED   bytes; nvmlDeviceGetMemoryInfo counts RESERVED as used
 *   utilization PERCENT, temperature CELSIUS, power MILLIWATTS, energy MILLIJOULES
 *   compute|graphics|mps PID BYTES [INSTANCE COMPUTE]
 *                                a process ("-" bytes: NVML_VALUE_NOT_AVAILABLE; PID 0: none) of
 *                                this device, or so it says of another MIG device
 *   sample PID MICROSECONDS PERCENT  a sample of a process' utilization; the time may be
 *                                    "now-SECONDS"
 *   samples                      there are samples, though perhaps none
 *   stale                        samples are also those that are not newer than asked for
 *   moving                       the per cent of all samples are one more (of 0 to 100) at each look
 *   count FUNCTION NUMBER        this function says that it wrote so many entries
 *   return FUNCTION CODE         this function answers so for this device
 * Without a file nvmlInit says that no driver is loaded. Each call is a line "PID FUNCTION" in the
 * file NVML_CALLS. With -DOLD newer functions are missing; with -DLONG the library is one of the
 * drivers 535.43 to 535.86, whose nvmlProcessInfo_t is longer.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
  OK = 0,
  UNINITIALIZED = 1,
  INVALID_ARGUMENT = 2,
  NOT_SUPPORTED = 3,
  NOT_FOUND = 6,
  INSUFFICIENT_SIZE = 7,
  DRIVER_NOT_LOADED = 9,
};

typedef unsigned long long u64;
#define NOT_AVAILABLE (~0ULL)
#define GPUS 64
#define PARTS 9 /* the GPU itself, and its MIG devices */

struct process { unsigned pid; u64 bytes; unsigned instance, compute_instance; };
struct list { struct process *processes; unsigned count, room; };
struct sample { unsigned pid; u64 at; unsigned sm, memory, encoder, decoder; };
struct rule { char kind[8], function[80]; double value; };
struct rules { struct rule *rules; unsigned count, room; };

struct device {
  int exists, divided, has_memory, has_samples, is_stale, is_moving;
  long long utilization, temperature, power, energy; /* -1: not supported */
  u64 total, reserved, used;
  unsigned instance, compute_instance;
  char uuid[96], name[96];
  struct list lists[3];
  struct sample *samples;
  unsigned sample_count, sample_room, looks;
  struct rules rules;
};

struct handle { unsigned gpu, part; };

static struct handle handles[GPUS][PARTS];
static struct device devices[GPUS][PARTS];
static struct rules rules;
static char driver[96];
static unsigned gpus;
static int is_there, is_initialised;
static struct stat seen;

static void *grow(void *entries, unsigned count, unsigned *room, size_t size) {
  if (count < *room) return entries;
  *room = *room ? 2 * *room : 16;
  return realloc(entries, *room * size);
}

static void empty(void) {
  for (unsigned gpu = 0; gpu < GPUS; gpu++)
    for (unsigned part = 0; part < PARTS; part++) {
      struct device *device = &devices[gpu][part];
      for (int list = 0; list < 3; list++) free(device->lists[list].processes);
      free(device->samples);
      free(device->rules.rules);
      *device = (struct device){
          .utilization = -1, .temperature = -1, .power = -1, .energy = -1};
      handles[gpu][part] = (struct handle){gpu, part};
    }
  rules.count = gpus = 0;
  *driver = 0;
}

static void add_rule(struct rules *all, const char *kind, const char *text) {
  all->rules = grow(all->rules, all->count, &all->room, sizeof *all->rules);
  struct rule *rule = &all->rules[all->count++];
  *rule = (struct rule){.value = -1};
  strncpy(rule->kind, kind, sizeof rule->kind - 1);
  sscanf(text, "%79s %lf", rule->function, &rule->value);
}

static u64 moment(const char *text) {
  struct timeval now;
  if (strncmp(text, "now-", 4)) return strtoull(text, NULL, 10);
  gettimeofday(&now, NULL);
  return now.tv_sec * 1000000ULL + now.tv_usec - (u64)(atof(text + 4) * 1e6);
}

static void add_process(struct list *list, const char *text) {
  char bytes[32] = "-";
  struct process process = {0, 0, ~0u, ~0u};
  sscanf(text, "%u %31s %u %u", &process.pid, bytes, &process.instance, &process.compute_instance);
  process.bytes = *bytes == '-' ? NOT_AVAILABLE : strtoull(bytes, NULL, 10);
  list->processes = grow(list->processes, list->count, &list->room, sizeof process);
  list->processes[list->count++] = process;
}

static void add_sample(struct device *device, const char *text) {
  char at[32] = "0";
  struct sample sample = {0};
  sscanf(text, "%u %31s %u", &sample.pid, at, &sample.sm);
  sample.at = moment(at);
  device->samples =
      grow(device->samples, device->sample_count, &device->sample_room, sizeof sample);
  device->samples[device->sample_count++] = sample;
  device->has_samples = 1;
}

static void take(const char *word, const char *text, struct device **at) {
  static unsigned parts;
  static struct device none;
  if (!*at) *at = &none;
  struct device *device = *at;
#define IS(name) (!strcmp(word, name))
  if (IS("gpu")) {
    *at = &devices[gpus++][0];
    (*at)->exists = 1;
    parts = 0;
  } else if (IS("mig")) {
    devices[gpus - 1][0].divided = 1;
    if (!*text) return;
    *at = &devices[gpus - 1][++parts];
    (*at)->exists = 1;
    sscanf(text, "%u %u", &(*at)->instance, &(*at)->compute_instance);
  } else if (IS("driver")) strncpy(driver, text, sizeof driver - 1);
  else if (IS("uuid")) strncpy(device->uuid, text, sizeof device->uuid - 1);
  else if (IS("name")) strncpy(device->name, text, sizeof device->name - 1);
  else if (IS("memory"))
    device->has_memory =
        sscanf(text, "%llu %llu %llu", &device->total, &device->reserved, &device->used) == 3;
  else if (IS("utilization")) device->utilization = atoll(text);
  else if (IS("temperature")) device->temperature = atoll(text);
  else if (IS("power")) device->power = atoll(text);
  else if (IS("energy")) device->energy = atoll(text);
  else if (IS("compute")) add_process(&device->lists[0], text);
  else if (IS("graphics")) add_process(&device->lists[1], text);
  else if (IS("mps")) add_process(&device->lists[2], text);
  else if (IS("sample")) add_sample(device, text);
  else if (IS("samples")) device->has_samples = 1;
  else if (IS("stale")) device->is_stale = 1;
  else if (IS("moving")) device->is_moving = 1;
  else if (gpus) add_rule(&device->rules, word, text);
  else add_rule(&rules, word, text);
#undef IS
}

static void load(void) {
  static char line[512];
  struct stat now;
  struct device *at = NULL;
  const char *path = getenv("NVML_SCENARIO");
  is_there = path && !stat(path, &now);
  if (!is_there || (now.st_ino == seen.st_ino && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
                    now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && now.st_size == seen.st_size))
    return;
  FILE *file = fopen(path, "re");
  if (!file) return;
  seen = now;
  empty();
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "#\n")] = 0;
    char *text = line + strcspn(line, " ");
    if (*text) *text++ = 0;
    if (*line) take(line, text, &at);
  }
  fclose(file);
}

static struct rule *rule_of(struct rules *all, const char *kind, const char *function) {
  for (unsigned i = 0; i < all->count; i++)
    if (!strcmp(all->rules[i].kind, kind) && !strcmp(all->rules[i].function, function))
      return &all->rules[i];
  return NULL;
}

static void note(const char *function) {
  char line[128];
  const char *path = getenv("NVML_CALLS");
  if (!path) return;
  int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(file, line, sprintf(line, "%d %s\n", getpid(), function)) < 0) abort();
  close(file);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static void hang(const char *function) {
  double since = seconds();
  struct rule *rule;
  while ((rule = rule_of(&rules, "hang", function)) &&
         (rule->value < 0 || seconds() < since + rule->value)) {
    usleep(2000);
    load();
  }
}

/* What every call begins with: its code, or OK where it has an answer. */
static int enter(const char *function, struct handle *handle) {
  struct rule *rule;
  note(function);
  load();
  hang(function);
  if (rule_of(&rules, "crash", function)) abort();
  if (rule_of(&rules, "print", function)) dprintf(1, "a word from %s\n", function);
  if ((rule = rule_of(&rules, "return", function))) return (int)rule->value;
  if (!handle) return OK;
  if (!is_initialised) return UNINITIALIZED;
  struct device *device = &devices[handle->gpu][handle->part];
  if (!device->exists) return INVALID_ARGUMENT;
  if ((rule = rule_of(&device->rules, "return", function))) return (int)rule->value;
  return OK;
}

#define ENTER(handle)                 \
  int code = enter(__func__, handle); \
  if (code) return code;
#define DEVICE(handle)                \
  ENTER(handle)                       \
  struct device *device = &devices[handle->gpu][handle->part];

int nvmlInitWithFlags(unsigned flags) {
  ENTER(NULL)
  if (!is_there) return DRIVER_NOT_LOADED;
  is_initialised++;
  return OK;
}

int nvmlShutdown(void) {
  ENTER(NULL)
  if (!is_initialised) return UNINITIALIZED;
  is_initialised--;
  return OK;
}

const char *nvmlErrorString(int code) { return code == 77 ? "Some Newer Error" : "Unknown Error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  ENTER(NULL)
  strncpy(text, driver, length);
  return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  ENTER(NULL)
  if (!is_initialised) return UNINITIALIZED;
  *count = gpus;
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct handle **handle) {
  if (index >= GPUS) return INVALID_ARGUMENT;
  *handle = &handles[index][0];
  ENTER(*handle)
  return OK;
}

int nvmlDeviceGetUUID(struct handle *handle, char *text, unsigned length) {
  DEVICE(handle)
  strncpy(text, device->uuid, length);
  return OK;
}

int nvmlDeviceGetName(struct handle *handle, char *text, unsigned length) {
  DEVICE(handle)
  strncpy(text, device->name, length);
  return OK;
}

struct memory { u64 total, free, used; };

int nvmlDeviceGetMemoryInfo(struct handle *handle, struct memory *memory) {
  DEVICE(handle)
  if (!device->has_memory) return NOT_SUPPORTED;
  memory->total = device->total;
  memory->used = device->used + device->reserved;
  memory->free = device->total - memory->used;
  return OK;
}

struct rates { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(struct handle *handle, struct rates *rates) {
  DEVICE(handle)
  if (device->utilization < 0) return NOT_SUPPORTED;
  *rates = (struct rates){(unsigned)device->utilization, 0};
  return OK;
}

int nvmlDeviceGetTemperature(struct handle *handle, int sensor, unsigned *celsius) {
  DEVICE(handle)
  if (device->temperature < 0) return NOT_SUPPORTED;
  *celsius = (unsigned)device->temperature;
  return OK;
}

int nvmlDeviceGetPowerUsage(struct handle *handle, unsigned *milliwatts) {
  DEVICE(handle)
  if (device->power < 0) return NOT_SUPPORTED;
  *milliwatts = (unsigned)device->power;
  return OK;
}

static unsigned counted(struct device *device, const char *function, unsigned count) {
  struct rule *rule = rule_of(&device->rules, "count", function);
  return rule ? (unsigned)rule->value : count;
}

/* The three versions of an entry begin alike and differ in length. */
struct info { unsigned pid; u64 bytes; unsigned instance, compute_instance; u64 secret; };
#define INFO_V1 16
#define INFO_V2 24
#define INFO_LONG 32

static int processes_of(const char *function, struct handle *handle, int list, size_t size,
                        unsigned *count, char *infos) {
  int code = enter(function, handle);
  if (code) return code;
  struct device *device = &devices[handle->gpu][handle->part];
  struct list *all = &device->lists[list];
  unsigned room = *count;
  *count = all->count;
  if (all->count > room || (all->count && !infos)) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < all->count; i++) {
    struct process *process = &all->processes[i];
    struct info info = {process->pid, process->bytes, process->instance,
                        process->compute_instance, ~0ULL};
    if (handle->part && info.instance == ~0u) {
      info.instance = device->instance;
      info.compute_instance = device->compute_instance;
    }
    memcpy(infos + i * size, &info, size);
  }
  *count = counted(device, function, all->count);
  return OK;
}

#define PROCESSES(function, list, size)                                           \
  int function(struct handle *handle, unsigned *count, char *infos) {             \
    return processes_of(__func__, handle, list, size, count, infos);              \
  }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, 0, INFO_V1)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, 1, INFO_V1)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, 2, INFO_V1)

#ifndef OLD

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, 0, INFO_V2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, 1, INFO_V2)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, 2, INFO_V2)

#ifdef LONG
#define INFO_V3 INFO_LONG
#else
#define INFO_V3 INFO_V2
int nvmlDeviceGetRunningProcessDetailList(void) { return NOT_SUPPORTED; }
#endif
int nvmlDeviceGetConfComputeMemSizeInfo(void) { return NOT_SUPPORTED; }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, 0, INFO_V3)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, 1, INFO_V3)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, 2, INFO_V3)

struct memory_v2 { unsigned version; u64 total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(struct handle *handle, struct memory_v2 *memory) {
  DEVICE(handle)
  if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
  if (!device->has_memory) return NOT_SUPPORTED;
  memory->total = device->total;
  memory->reserved = device->reserved;
  memory->used = device->used;
  memory->free = device->total - device->reserved - device->used;
  return OK;
}

struct temperature { unsigned version; int sensor, celsius; };

int nvmlDeviceGetTemperatureV(struct handle *handle, struct temperature *temperature) {
  DEVICE(handle)
  if (temperature->version != (sizeof *temperature | 1u << 24)) return INVALID_ARGUMENT;
  if (device->temperature < 0) return NOT_SUPPORTED;
  temperature->celsius = (int)device->temperature;
  return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(struct handle *handle, u64 *millijoules) {
  DEVICE(handle)
  if (device->energy < 0) return NOT_SUPPORTED;
  *millijoules = (u64)device->energy;
  return OK;
}

int nvmlDeviceGetProcessUtilization(struct handle *handle, struct sample *samples,
                                    unsigned *count, u64 since) {
  DEVICE(handle)
  if (!device->has_samples) return NOT_SUPPORTED;
  unsigned room = *count, found = 0;
  for (unsigned i = 0; i < device->sample_count; i++) {
    if (device->samples[i].at <= since && device->samples[i].pid && !device->is_stale) continue;
    if (samples && found < room) {
      samples[found] = device->samples[i];
      if (device->is_moving) samples[found].sm = (samples[found].sm + device->looks) % 101;
    }
    found++;
  }
  if (!found) return NOT_FOUND;
  *count = found;
  if (!samples || found > room) return INSUFFICIENT_SIZE;
  device->looks++;
  *count = counted(device, __func__, found);
  return OK;
}

int nvmlDeviceGetMigMode(struct handle *handle, unsigned *current, unsigned *pending) {
  DEVICE(handle)
  if (!device->divided) return NOT_SUPPORTED;
  *current = *pending = 1;
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct handle *handle, unsigned *count) {
  ENTER(handle)
  *count = 7;
  return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct handle *handle, unsigned place, struct handle **mig) {
  ENTER(handle)
  if (place + 1 >= PARTS || !devices[handle->gpu][place + 1].exists) return NOT_FOUND;
  *mig = &handles[handle->gpu][place + 1];
  return OK;
}

int nvmlDeviceGetGpuInstanceId(struct handle *handle, unsigned *id) {
  DEVICE(handle)
  *id = device->instance;
  return OK;
}

int nvmlDeviceGetComputeInstanceId(struct handle *handle, unsigned *id) {
  DEVICE(handle)
  *id = device->compute_instance;
  return OK;
}

#endif
