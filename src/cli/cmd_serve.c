/* lockstep serve: an OpenAI-compatible server. */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "cli/command.h"
#include "cli/launch.h"
#include "cli/stdio_util.h"
#include "cli/vigil.h"
#include "serve/origin.h"
#include "serve/served.h"
#include "serve/server.h"

enum { N_OWN = 15, MAX_KEY = 4096 };

struct serve_options {
    struct common_options common;
    struct server_options server;
    const char *key_file, *log_format;
    bool no_auth;
    struct buffer key;          /* owns */
    char name[SERVED_MAX_NAME]; /* of the model, where none is given */
};

static int options_table(struct serve_options *o, struct option *table) {
    o->server = (struct server_options){.host = "127.0.0.1",
                                        .port = 8000,
                                        .max_batch = 8,
                                        .prefill_chunk = 256,
                                        .max_waiting = 128,
                                        .drain_s = 25};
    o->log_format = "text";
    const struct option own[N_OWN] = {
        {.type = OPTION_SECTION, .name = "Options of serve"},
        {.type = OPTION_STRING,
         .name = "host",
         .value = &o->server.host,
         .arg = "HOST",
         .help = "address to listen on (default: 127.0.0.1)"},
        {.type = OPTION_INT,
         .name = "port",
         .value = &o->server.port,
         .arg = "N",
         .max = 65535,
         .help = "port to listen on (default: 8000); 0: a free one"},
        {.type = OPTION_STRING,
         .name = "port-file",
         .value = &o->server.port_file,
         .arg = "FILE",
         .help = "write HOST:PORT to FILE once it listens"},
        {.type = OPTION_STRING,
         .name = "api-key-file",
         .value = &o->key_file,
         .arg = "FILE",
         .help = "ask for the key in FILE, as Authorization: Bearer KEY"},
        {.type = OPTION_FLAG,
         .name = "no-auth",
         .value = &o->no_auth,
         .help = "listen beyond loopback without a key"},
        {.type = OPTION_STRING,
         .name = "cors-origin",
         .value = &o->server.cors_origin,
         .arg = "ORIGIN",
         .help = "let pages of ORIGIN, such as https://example.org, send\nrequests; *: all pages"},
        {.type = OPTION_STRING,
         .name = "served-model-name",
         .value = &o->server.model_name,
         .arg = "NAME",
         .help = "the model's name for clients\n(default: its directory's)"},
        {.type = OPTION_STRING,
         .name = "model-root",
         .value = &o->server.model_root,
         .arg = "DIR",
         .help = "models below DIR may be loaded over HTTP, too\n(POST /v1/admin/load)"},
        {.type = OPTION_BYTES,
         .name = "kv-memory",
         .value = &o->server.kv_memory,
         .arg = "SIZE",
         .min = 1,
         .max = (double)INFINITY,
         .help = "of each rank, for the KV cache: 512M, 8G (default: for\n"
                 "--max-batch whole contexts, or what fits)"},
        {.type = OPTION_INT,
         .name = "max-batch",
         .value = &o->server.max_batch,
         .arg = "N",
         .min = 1,
         .max = 256,
         .help = "requests that run side by side (default: 8)"},
        {.type = OPTION_INT,
         .name = "prefill-chunk",
         .value = &o->server.prefill_chunk,
         .arg = "N",
         .min = 1,
         .max = 65536,
         .help = "prompt tokens in one step (default: 256)"},
        {.type = OPTION_INT,
         .name = "max-waiting",
         .value = &o->server.max_waiting,
         .arg = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "requests that may wait for a place (default: 128);\nmore get 429"},
        {.type = OPTION_DOUBLE,
         .name = "drain-timeout",
         .value = &o->server.drain_s,
         .arg = "SECONDS",
         .min = 0,
         .max = 86400,
         .help = "for running requests to finish once an end is asked\nfor (default: 25)"},
        {.type = OPTION_STRING,
         .name = "log-format",
         .value = &o->log_format,
         .arg = "FORMAT",
         .choices = "text|json",
         .help = "of the access log on stderr: text or json"},
    };
    memcpy(table, own, sizeof own);
    common_options_table(&o->common, table + N_OWN);
    return N_OWN + COMMON_OPTION_COUNT;
}

/* Names other than this one go where a resolver says. */
static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    return strcmp(host, "localhost") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127) ||
           (inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6));
}

/* What a header carries as it is, in every client. */
static bool is_key(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return false;
        }
    }
    return true;
}

/* The first line of the file. */
static bool read_key(struct serve_options *o, struct error *err) {
    if (!buffer_read_file(&o->key, o->key_file, MAX_KEY, err)) {
        return error_wrap(err, "--api-key-file");
    }
    char *key = (char *)o->key.data;
    size_t n = 0;
    while (n < o->key.size && key[n] != '\r' && key[n] != '\n') {
        n++;
    }
    if (n == 0) {
        return error_set(err, ERROR_USAGE, "--api-key-file %s: the first line is empty",
                         o->key_file);
    }
    if (!is_key(key, n)) {
        return error_set(err, ERROR_USAGE,
                         "--api-key-file %s: a key has letters, digits and signs of ASCII alone",
                         o->key_file);
    }
    key[n] = 0;
    o->server.api_key = key;
    return true;
}

static bool check_access(const struct serve_options *o, struct error *err) {
    const char *host = o->server.host;
    if (!*host) {
        return error_set(err, ERROR_USAGE, "--host: no address is named");
    }
    if (o->key_file && o->no_auth) {
        return error_set(err, ERROR_USAGE, "give only one of --api-key-file and --no-auth");
    }
    if (!o->key_file && !o->no_auth && !is_loopback(host)) {
        return error_set(err, ERROR_USAGE,
                         "--host %s is open to others: give --api-key-file FILE, or --no-auth if "
                         "you mean it",
                         host);
    }
    if (o->server.cors_origin && !origin_is_valid(o->server.cors_origin)) {
        return error_set(err, ERROR_USAGE,
                         "--cors-origin %s: expected an origin without a path, such as "
                         "https://example.org, or *",
                         o->server.cors_origin);
    }
    return true;
}

static bool check_name(const char *name, struct error *err) {
    size_t n = name ? strlen(name) : 1;
    return (n > 0 && n < SERVED_MAX_NAME) ||
           error_set(err, ERROR_USAGE, "--served-model-name: must have 1 to %d bytes",
                     SERVED_MAX_NAME - 1);
}

static bool check_root(const char *dir, struct error *err) {
    struct stat is;
    if (stat(dir, &is) != 0) {
        return error_set(err, ERROR_IO, "--model-root %s: %s", dir, strerror(errno));
    }
    return S_ISDIR(is.st_mode) || error_set(err, ERROR_IO, "--model-root %s: not a directory", dir);
}

/* What rank 0's machine alone has to have. */
static bool read_files(struct serve_options *o, struct error *err) {
    const char *root = o->server.model_root;
    return (!root || check_root(root, err)) && (!o->key_file || read_key(o, err));
}

/* The last part of the directory's path. */
static const char *name_of(struct serve_options *o, const char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') {
        n--;
    }
    size_t from = n;
    while (from > 0 && dir[from - 1] != '/') {
        from--;
    }
    snprintf(o->name, sizeof o->name, "%.*s", (int)(n - from), dir + from);
    return *o->name ? o->name : "model";
}

static bool lead(struct pool *pool, void *user, struct error *err) {
    struct serve_options *o = user;
    struct server_options *s = &o->server;
    s->interrupt_fd = launch_interrupt_fd(); /* there are these only now */
    s->kill_fd = launch_kill_fd();
    s->lost = vigil_lost;
    s->show = stdio_note;
    return read_files(o, err) && server_run(s, pool, err);
}

static bool run(struct serve_options *o, struct error *err) {
    struct server_options *s = &o->server;
    if (!check_access(o, err) || !check_name(s->model_name, err)) {
        return false;
    }
    s->dir = common_model(&o->common);
    s->model_name = s->model_name ? s->model_name : name_of(o, s->dir);
    s->ctx = o->common.ctx;
    s->kv_dtype = o->common.kv_dtype;
    s->quant = common_quant(&o->common);
    s->json_log = strcmp(o->log_format, "json") == 0;
    s->interrupted = launch_interrupted;
    launch_grace(s->drain_s);
    launch_usr1_ends();
    return launch_run(&o->common, lead, o, err);
}

static bool run_serve(const struct command *self, int argc, char **argv, struct error *err) {
    struct serve_options o = {0};
    struct option table[N_OWN + COMMON_OPTION_COUNT];
    int n = options_table(&o, table);
    if (!command_parse(self, &o.common, table, n, argc, argv, NULL, 0, NULL, err)) {
        return false;
    }
    if (o.common.help) {
        return true;
    }
    bool ok = run(&o, err);
    if (ok) { /* else HTTP may still ask for the key: see server_run */
        buffer_finish(&o.key);
    }
    return ok;
}

const struct command command_serve = {
    .name = "serve",
    .summary = "OpenAI-compatible HTTP server.",
    .synopsis = "[--model DIR] [--port N] [options]",
    .run = run_serve,
};
