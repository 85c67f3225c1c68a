#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- suggestions ---- */

enum { NAME_MAX_LEN = 40 };

static int min3(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace) between two names; long ones count as far apart. */
static int edit_distance(const char *a, const char *b) {
    size_t la = strlen(a), lb = strlen(b);
    if (la > NAME_MAX_LEN || lb > NAME_MAX_LEN) {
        return NAME_MAX_LEN;
    }
    int row[NAME_MAX_LEN + 1];
    for (size_t j = 0; j <= lb; j++) {
        row[j] = (int)j;
    }
    for (size_t i = 1; i <= la; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= lb; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = min3(row[j] + 1, row[j - 1] + 1, replace);
        }
    }
    return row[lb];
}

bool options_near(const char *typed, const char *name, int *best) {
    size_t n = strlen(typed);
    bool prefix = n >= 2 && strncmp(typed, name, n) == 0;
    int distance = prefix ? 0 : edit_distance(typed, name);
    int limit = n < 4 ? 1 : 2;
    if (distance > limit || distance >= *best) {
        return false;
    }
    *best = distance;
    return true;
}

static const char *nearest(const struct option *table, int n, const char *typed) {
    const char *found = NULL;
    int best = NAME_MAX_LEN;
    for (int i = 0; i < n; i++) {
        if (table[i].type != OPTION_SECTION && options_near(typed, table[i].name, &best)) {
            found = table[i].name;
        }
    }
    return found;
}

/* ---- lookup ---- */

static const struct option *find_long(const struct option *table, int n, const char *name,
                                      size_t len) {
    for (int i = 0; i < n; i++) {
        if (table[i].type != OPTION_SECTION && strlen(table[i].name) == len &&
            memcmp(table[i].name, name, len) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static const struct option *find_short(const struct option *table, int n, char c) {
    for (int i = 0; c && i < n; i++) {
        if (table[i].type != OPTION_SECTION && table[i].short_name == c) {
            return &table[i];
        }
    }
    return NULL;
}

/* The option a word names, with or without an attached value; NULL when it names none. */
static const struct option *find_word(const struct option *table, int n, const char *word) {
    if (word[0] != '-' || word[1] == 0) {
        return NULL;
    }
    if (word[1] == '-') {
        return find_long(table, n, word + 2, strcspn(word + 2, "="));
    }
    return word[2] == 0 ? find_short(table, n, word[1]) : NULL;
}

/* ---- values ---- */

static bool in_range(const struct option *o, double v, const char *text, struct error *err) {
    if ((o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max)) {
        return true;
    }
    if (isinf(o->max)) {
        return error_set(err, ERROR_USAGE, "--%s %s: must be at least %.15g", o->name, text,
                         o->min);
    }
    return error_set(err, ERROR_USAGE, "--%s %s: must be between %.15g and %.15g", o->name, text,
                     o->min, o->max);
}

static bool set_int(const struct option *o, const char *text, struct error *err) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end) {
        return error_set(err, ERROR_USAGE, "--%s %s: not a whole number", o->name, text);
    }
    if (!in_range(o, (double)v, text, err)) {
        return false;
    }
    if (errno || v < -2147483647 || v > 2147483647) {
        return error_set(err, ERROR_USAGE, "--%s %s: too large", o->name, text);
    }
    *(int *)o->value = (int)v;
    return true;
}

static bool set_uint64(const struct option *o, const char *text, struct error *err) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 0);
    if (end == text || *end || errno || strchr(text, '-')) {
        return error_set(err, ERROR_USAGE, "--%s %s: not a whole number from 0 to 2^64-1", o->name,
                         text);
    }
    if (!in_range(o, (double)v, text, err)) {
        return false;
    }
    *(uint64_t *)o->value = v;
    return true;
}

static bool set_double(const struct option *o, const char *text, struct error *err) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v)) {
        return error_set(err, ERROR_USAGE, "--%s %s: not a number", o->name, text);
    }
    if (!in_range(o, v, text, err)) {
        return false;
    }
    *(double *)o->value = v;
    return true;
}

/* Power of two a size suffix stands for ("", "K", "M", "G", "T", with or without "B", "iB");
 * -1 when it is none. */
static int suffix_shift(const char *suffix) {
    static const char letters[] = "KMGT";
    int shift = 0;
    if (*suffix) {
        char upper = (char)(*suffix & ~0x20);
        const char *at = strchr(letters, upper);
        if (at && *at) {
            shift = 10 * (int)(at - letters + 1);
            suffix++;
        }
    }
    bool done = *suffix == 0 || strcmp(suffix, "B") == 0 || (shift && strcmp(suffix, "iB") == 0);
    return done ? shift : -1;
}

static bool set_bytes(const struct option *o, const char *text, struct error *err) {
    char *end;
    double v = strtod(text, &end);
    int shift = end == text ? -1 : suffix_shift(end);
    double bytes = shift < 0 ? -1 : v * (double)(UINT64_C(1) << shift);
    if (!(bytes >= 0 && bytes < 9.2e18)) {
        return error_set(err, ERROR_USAGE, "--%s %s: not a size; write for example 4096, 512K, 2G",
                         o->name, text);
    }
    if (!in_range(o, bytes, text, err)) {
        return false;
    }
    *(uint64_t *)o->value = (uint64_t)bytes;
    return true;
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *c = choices; *c; c += strspn(c, "|")) {
        size_t len = strcspn(c, "|");
        if (len == n && memcmp(c, text, n) == 0) {
            return true;
        }
        c += len;
    }
    return false;
}

static bool set_string(const struct option *o, const char *text, struct error *err) {
    if (o->choices && !is_choice(o->choices, text)) {
        return error_set(err, ERROR_USAGE, "--%s %s: must be one of %s", o->name, text, o->choices);
    }
    *(const char **)o->value = text;
    return true;
}

static bool add_string(const struct option *o, const char *text, struct error *err) {
    struct option_strings *list = o->value;
    if (list->n == OPTION_STRINGS_MAX) {
        return error_set(err, ERROR_USAGE, "--%s: given more than %d times", o->name,
                         OPTION_STRINGS_MAX);
    }
    list->item[list->n++] = text;
    return true;
}

static bool set_value(const struct option *o, const char *text, struct error *err) {
    switch (o->type) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return true;
    case OPTION_STRING:
        return set_string(o, text, err);
    case OPTION_INT:
        return set_int(o, text, err);
    case OPTION_UINT64:
        return set_uint64(o, text, err);
    case OPTION_DOUBLE:
        return set_double(o, text, err);
    case OPTION_BYTES:
        return set_bytes(o, text, err);
    case OPTION_STRINGS:
        return add_string(o, text, err);
    case OPTION_SECTION:
        break;
    }
    return error_set(err, ERROR_INTERNAL, "option --%s has no type", o->name);
}

/* ---- parsing ---- */

static bool unknown_option(const struct option *table, int n, const char *word, struct error *err) {
    int len = (int)strcspn(word, "=");
    if (word[1] != '-') {
        /* "-model" is a common slip for "--model" */
        const struct option *o = find_long(table, n, word + 1, (size_t)len - 1);
        return o ? error_set(err, ERROR_USAGE, "unknown option %.*s; did you mean --%s?", len, word,
                             o->name)
                 : error_set(err, ERROR_USAGE, "unknown option %.*s", len, word);
    }
    char typed[NAME_MAX_LEN + 1];
    snprintf(typed, sizeof typed, "%.*s", len - 2, word + 2);
    const char *near = nearest(table, n, typed);
    return near ? error_set(err, ERROR_USAGE, "unknown option %.*s; did you mean --%s?", len, word,
                            near)
                : error_set(err, ERROR_USAGE, "unknown option %.*s", len, word);
}

/* Handles the option argv[*i], and the next word where that is its value. */
static bool parse_option(const struct option *table, int n, int argc, char **argv, int *i,
                         struct error *err) {
    const char *word = argv[*i];
    const struct option *o = find_word(table, n, word);
    if (!o) {
        return unknown_option(table, n, word, err);
    }
    const char *value = word[1] == '-' ? strchr(word, '=') : NULL;
    value = value ? value + 1 : NULL;
    if (o->type == OPTION_FLAG && value) {
        return error_set(err, ERROR_USAGE, "--%s takes no value (got '%s')", o->name, value);
    }
    if (o->type != OPTION_FLAG && !value) {
        if (*i + 1 >= argc) {
            return error_set(err, ERROR_USAGE, "--%s needs a value: --%s %s", o->name, o->name,
                             o->arg ? o->arg : "VALUE");
        }
        value = argv[*i + 1];
        if (find_word(table, n, value)) {
            return error_set(err, ERROR_USAGE,
                             "--%s needs a value, but %s follows; write --%s=%s if that is meant",
                             o->name, value, o->name, value);
        }
        ++*i;
    }
    if (!set_value(o, value, err)) {
        return false;
    }
    if (o->seen) {
        *o->seen = true;
    }
    return true;
}

bool options_parse(const struct option *table, int n, int argc, char **argv, const char **args,
                   int max_arg, int *n_arg, struct error *err) {
    bool options_ended = false;
    int count = 0;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!options_ended && strcmp(word, "--") == 0) {
            options_ended = true;
        } else if (!options_ended && word[0] == '-' && word[1]) {
            if (!parse_option(table, n, argc, argv, &i, err)) {
                return false;
            }
        } else if (count == max_arg) {
            return error_set(err, ERROR_USAGE, "unexpected word '%s'", word);
        } else {
            args[count++] = word;
        }
    }
    if (n_arg) {
        *n_arg = count;
    }
    return true;
}

bool options_has_flag(const struct option *table, int n, int argc, char **argv, const bool *value) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const struct option *o = find_word(table, n, argv[i]);
        if (o && o->value == value && !strchr(argv[i], '=')) {
            return true;
        }
    }
    return false;
}

/* ---- help ---- */

enum { HELP_COLUMN = 30 };

/* "  -n, --name ARG" */
static void option_label(const struct option *o, char *out, size_t size) {
    char head[8] = "    ";
    if (o->short_name) {
        snprintf(head, sizeof head, "-%c, ", o->short_name);
    }
    const char *arg = o->type == OPTION_FLAG ? NULL : o->arg ? o->arg : o->choices;
    snprintf(out, size, "  %s--%s%s%s", head, o->name, arg ? " " : "", arg ? arg : "");
}

void options_print_help(const struct option *table, int n) {
    for (int i = 0; i < n; i++) {
        const struct option *o = &table[i];
        if (o->type == OPTION_SECTION) {
            printf("\n%s:\n", o->name);
            continue;
        }
        char label[120];
        option_label(o, label, sizeof label);
        if (strlen(label) > HELP_COLUMN - 2) {
            printf("%s\n%*s", label, HELP_COLUMN, "");
        } else {
            printf("%-*s", HELP_COLUMN, label);
        }
        const char *line = o->help ? o->help : "";
        for (;;) {
            int len = (int)strcspn(line, "\n");
            printf("%.*s\n", len, line);
            if (line[len] == 0) {
                break;
            }
            line += len + 1;
            printf("%*s", HELP_COLUMN, "");
        }
    }
}

/* ---- lists of numbers ---- */

bool options_parse_ints(const char *text, const char *what, int32_t **out, int *n_out,
                        struct error *err) {
    size_t capacity = 1;
    for (const char *c = text; *c; c++) {
        capacity += *c == ',' || *c == ' ' || *c == '\t' || *c == '\n';
    }
    int32_t *ids = malloc(capacity * sizeof *ids);
    if (!ids) {
        return error_set(err, ERROR_MEMORY, "%s: cannot hold %zu numbers", what, capacity);
    }
    int n = 0;
    const char *at = text + strspn(text, " \t\n");
    while (*at) {
        char *end;
        errno = 0;
        long v = strtol(at, &end, 10);
        if (end == at || errno || v < INT32_MIN || v > INT32_MAX) {
            error_set(err, ERROR_USAGE, "%s: '%.20s' is not a number; write for example 1,2,3",
                      what, at);
            goto failed;
        }
        ids[n++] = (int32_t)v;
        const char *rest = end + strspn(end, " \t\n");
        bool comma = *rest == ',';
        if (comma) {
            rest += 1 + strspn(rest + 1, " \t\n");
        }
        if ((comma && *rest == 0) || (!comma && *rest && rest == end)) {
            error_set(err, ERROR_USAGE, "%s: '%.20s' after %ld is not a number", what,
                      comma ? "," : rest, v);
            goto failed;
        }
        at = rest;
    }
    *out = ids; /* moves */
    *n_out = n;
    return true;
failed:
    free(ids);
    return false;
}
