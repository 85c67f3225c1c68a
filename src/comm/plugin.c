#include "comm/plugin.h"

#include "config.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/build_id.h"

/* The folder of the running program; "." where /proc does not say. */
static void program_dir(char *out, size_t size) {
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) {
        slash[slash == exe] = 0;
    }
    snprintf(out, size, "%s", slash ? exe : ".");
}

/* Where the plug-in is. True too where it is nowhere: then dlopen says so, of the last place. */
static bool find_file(char *out, size_t size, struct error *err) {
    char dir[PATH_MAX];
    const char *given = getenv("LOCKSTEP_PLUGIN_DIR");
    int n;
    if (given && *given) {
        n = snprintf(out, size, "%s/" CUDA_PLUGIN_FILE, given);
    } else {
        program_dir(dir, sizeof dir);
        n = snprintf(out, size, "%s/" CUDA_PLUGIN_FILE, dir);
        if (n >= 0 && (size_t)n < size && access(out, F_OK) != 0) {
            n = snprintf(out, size, "%s/" CUDA_PLUGIN_FILE, LOCKSTEP_PLUGIN_DIR);
        }
    }
    return (n >= 0 && (size_t)n < size) ||
           error_set(err, ERROR_DEVICE, "the path of " CUDA_PLUGIN_FILE " is too long");
}

bool plugin_find(char *path, size_t size) {
    return find_file(path, size, NULL) && access(path, F_OK) == 0;
}

bool plugin_driver(struct error *err) {
    /* Stays open: the CUDA runtime opens it by the same name. */
    return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) ||
           error_set(err, ERROR_DEVICE, "no NVIDIA driver: %s", dlerror());
}

/* The library stays open until the process ends: CUDA cannot be unloaded safely. */
static bool load(const char *path, const struct cuda_plugin **out, struct error *err) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        bool there = access(path, F_OK) == 0;
        return error_set(err, ERROR_DEVICE, "%s: %s",
                         there ? "the CUDA plug-in does not load" : "no CUDA plug-in", dlerror());
    }
    cuda_plugin_get *get = NULL;
    *(void **)&get = dlsym(library, CUDA_PLUGIN_SYMBOL); /* the cast that POSIX recommends */
    if (!get) {
        return error_set(err, ERROR_DEVICE, "the CUDA plug-in does not load: %s", dlerror());
    }
    const struct cuda_plugin *plugin = get();
    if (plugin->abi != CUDA_PLUGIN_ABI) {
        return error_set(err, ERROR_VERSION, "%s: plug-in ABI %u, this program has %u", path,
                         (unsigned)plugin->abi, (unsigned)CUDA_PLUGIN_ABI);
    }
    if (strcmp(plugin->build_id, build_id()) != 0) {
        return error_set(err, ERROR_VERSION, "%s: plug-in of build %s, this program is build %s",
                         path, plugin->build_id, build_id());
    }
    plugin->use_flight(flight_own());
    *out = plugin;
    return true;
}

bool plugin_open(const struct cuda_plugin **out, struct error *err) {
    static bool tried;
    static const struct cuda_plugin *plugin; /* NULL: failed, for the reason below */
    static struct error failure;
    char path[PATH_MAX + sizeof CUDA_PLUGIN_FILE];
    if (!tried) {
        tried = true;
        if (find_file(path, sizeof path, &failure)) {
            load(path, &plugin, &failure);
        }
    }
    if (!plugin) {
        if (err) {
            *err = failure;
        }
        return false;
    }
    *out = plugin;
    return true;
}
