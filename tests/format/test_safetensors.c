/* Issue list of bad weights: each is one clear error; and what must load all the same. */
#include "tempdir.h"

#include <sys/stat.h>

#include "base/random.h"
#include "format/safetensors.h"

static struct tempdir dir;

static int setup(void **state) {
    (void)state;
    tempdir_make(&dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tempdir_remove(&dir);
    return 0;
}

/* Writes a file of this header and n_data bytes 0, 1, 2, ... */
static void put(const char *name, const char *header, size_t n_data) {
    size_t n_header = strlen(header);
    unsigned char *file = malloc(8 + n_header + n_data);
    for (int i = 0; i < 8; i++) {
        file[i] = (unsigned char)((uint64_t)n_header >> 8 * i);
    }
    memcpy(file + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) {
        file[8 + n_header + i] = (unsigned char)i;
    }
    tempdir_write(&dir, name, file, 8 + n_header + n_data);
    free(file);
}

static struct st_set *must_open(void) {
    struct st_set *s = NULL;
    struct error err = {0};
    assert_ok(st_open(&s, dir.path, &err), &err);
    return s;
}

static void must_refuse(enum error_kind kind, const char *text, const char *text2) {
    struct st_set *s = NULL;
    struct error err = {0};
    assert_error(st_open(&s, dir.path, &err), &err, kind, text, text2);
    assert_null(s);
}

/* ---- headers ---- */

#define A          "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define B          "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]}"
#define T(d, s, o) "{\"a\":{\"dtype\":" d ",\"shape\":" s ",\"data_offsets\":" o "}}"

static void bad_headers_name_file_tensor_and_field(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        const char *text;
    } cases[] = {
        /* offsets: overlapping, with a hole, negative, backwards, out of range, with a rest */
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
         "b: data_offsets"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
         ": data_offsets"},
        {"{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}", 20,
         "b: data_offsets"},
        {T("\"F32\"", "[2]", "[-8,0]"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[8,0]"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[8,16]"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[9223372036854775800,9223372036854775807]"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[0,99999999999999999999]"), 8, "data_offsets"},
        {"{" A "}", 9, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[80,88]}," B "}", 20,
         "a: data_offsets: end at 88"},
        /* byte counts that shape and dtype do not give */
        {T("\"F32\"", "[2]", "[0,4]"), 4, "a: data_offsets"},
        {T("\"F32\"", "[3]", "[0,8]"), 8, "a: data_offsets"},
        {T("\"BF16\"", "[2]", "[0,8]"), 8, "a: data_offsets"},
        {T("\"F4\"", "[3]", "[0,1]"), 1, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[0,0]"), 0, "a: data_offsets"},
        /* shapes: overflow, negative, not integers */
        {T("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "a: shape"},
        {T("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0, "a: shape"},
        {T("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "a: data_offsets"},
        {T("\"F32\"", "[-2]", "[0,8]"), 8, "a: shape"},
        {T("\"F32\"", "[2.0]", "[0,8]"), 8, "a: shape: expected whole numbers from 0, got 2.0"},
        {T("\"F32\"", "[2]", "[0.0,8]"), 8, "a: data_offsets: expected a whole number"},
        {T("\"F32\"", "\"2\"", "[0,8]"), 8, "a: shape"},
        {T("\"F32\"", "2", "[0,8]"), 8, "a: shape"},
        /* wrong types, missing fields */
        {T("\"F32\"", "[2]", "[0,8,16]"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "{}"), 8, "a: data_offsets"},
        {T("\"F32\"", "[2]", "[0,\"8\"]"), 8, "a: data_offsets"},
        {T("32", "[2]", "[0,8]"), 8, "a: dtype"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "a: dtype: missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "a: shape: missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "a: data_offsets: missing"},
        {"{\"a\":[]}", 0, "a: expected an object"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        /* duplicates, also where an escape hides them */
        {"{" A "," A "}", 8, "duplicate"},
        {"{" A ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
         "duplicate"},
        /* not a JSON object */
        {"", 0, "model.safetensors: header: not valid JSON"},
        {"[]", 0, "header"},
        {"{\"a\":", 0, "not valid JSON"},
        {"\x01\x02\x03\x04", 0, "not valid JSON"},
        {"{" A "}\x01", 8, "not valid JSON"},
        {"{\"a\\nb\":3}", 0, "a?b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("model.safetensors", cases[i].header, cases[i].n_data);
        must_refuse(ERROR_ST_HEADER, "model.safetensors", cases[i].text);
    }
    tempdir_clear(&dir);
}

static void truncation_tells_claimed_and_actual(void **state) {
    (void)state;
    put("model.safetensors", "{" A "," B "}", 20);
    struct stat st;
    const char *path = tempdir_join(&dir, "model.safetensors");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 1), 0);
    must_refuse(ERROR_ST_TRUNCATED, "model.safetensors: truncated: its header claims 20", "has 19");
    assert_int_equal(truncate(path, st.st_size - 20), 0);
    must_refuse(ERROR_ST_TRUNCATED, "model.safetensors", "has 0");
    assert_int_equal(truncate(path, st.st_size - 21), 0);
    must_refuse(ERROR_ST_TRUNCATED, "model.safetensors", "header length claims");
    for (off_t n = 7; n >= 0; n--) {
        assert_int_equal(truncate(path, n), 0);
        must_refuse(ERROR_ST_TRUNCATED, "model.safetensors", "takes 8 bytes");
    }
    tempdir_clear(&dir);
}

static void header_lengths_are_not_believed(void **state) {
    (void)state;
    tempdir_write(&dir, "model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    must_refuse(ERROR_ST_HEADER, "model.safetensors: header length", "18446744073709551615");
    tempdir_write(&dir, "model.safetensors", "\x00\xe1\xf5\x05\0\0\0\0{}", 10); /* the limit */
    must_refuse(ERROR_ST_TRUNCATED, "model.safetensors", "claims 100000000 bytes");
    tempdir_write(&dir, "model.safetensors", "\x03\0\0\0\0\0\0\0{}", 10);
    must_refuse(ERROR_ST_TRUNCATED, "model.safetensors", "claims 3 bytes, the file has 2");
    tempdir_text(&dir, "model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    must_refuse(ERROR_ST_HEADER, "model.safetensors", "Git LFS");
    tempdir_clear(&dir);
}

static void nesting_bombs_are_errors(void **state) {
    (void)state;
    char *bomb = malloc(200001);
    memset(bomb, '[', 200000);
    memcpy(bomb, "{\"a\":", 5);
    bomb[200000] = 0;
    put("model.safetensors", bomb, 0);
    must_refuse(ERROR_ST_HEADER, "model.safetensors", "depth");
    free(bomb);
    tempdir_clear(&dir);
}

/* ---- what is not a file ---- */

static void only_regular_files_are_read(void **state) {
    (void)state;
    must_refuse(ERROR_IO, dir.path, "model.safetensors");
    assert_int_equal(mkfifo(tempdir_join(&dir, "model.safetensors"), 0600), 0);
    must_refuse(ERROR_IO, "model.safetensors", "FIFO");
    tempdir_clear(&dir);
    assert_int_equal(mkdir(tempdir_join(&dir, "model.safetensors"), 0700), 0);
    must_refuse(ERROR_IO, "model.safetensors", "a directory");
    tempdir_clear(&dir);
    assert_int_equal(symlink("nowhere", tempdir_join(&dir, "model.safetensors")), 0);
    must_refuse(ERROR_IO, "model.safetensors", "symbolic link");
    tempdir_clear(&dir);
    assert_int_equal(symlink("model.safetensors", tempdir_join(&dir, "model.safetensors")), 0);
    must_refuse(ERROR_IO, "model.safetensors", "symbolic links");
    tempdir_clear(&dir);
    assert_int_equal(symlink("/dev/zero", tempdir_join(&dir, "model.safetensors")), 0);
    must_refuse(ERROR_IO, "model.safetensors", "not a regular file");
    tempdir_clear(&dir);
}

/* ---- what must load ---- */

static void good_headers_load(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        int n_tensor;
    } cases[] = {
        {"{" A "," B "}", 20, 2},
        {"{" B "," A "}", 20, 2}, /* reordered */
        {"{" A "," B "}          ", 20, 2},
        {" {" A "," B "}\n\n", 20, 2},
        {"{\"__metadata__\":{\"format\":\"pt\"}," A "}", 8, 1},
        {"{" A ",\"__metadata__\":null}", 8, 1},
        {"{}", 0, 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1},
        {"{" A ",\"z\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[8,8]},"
         "\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}",
         8, 3},
        {"{\"a\":{\"dtype\":\"F32\",\"later\":[1],\"shape\":[2],\"data_offsets\":[0,8]}}", 8, 1},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, 1},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, 1},
        {"{\"a\":{\"dtype\":\"NEW7\",\"shape\":[2],\"data_offsets\":[0,5]}}", 5, 1},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8,
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("model.safetensors", cases[i].header, cases[i].n_data);
        struct st_set *s = must_open();
        assert_int_equal(st_count(s), cases[i].n_tensor);
        st_close(s);
    }
    tempdir_clear(&dir);
}

static void tensors_are_found_and_read(void **state) {
    (void)state;
    put("model.safetensors", "{" B "," A "}", 20);
    struct st_set *s = must_open();
    struct error err = {0};
    const struct st_tensor *b = st_find(s, "b");
    unsigned char bytes[12];

    assert_non_null(b);
    assert_string_equal(b->name, "b");
    assert_string_equal(b->dtype_name, "BF16");
    assert_true(b->supported && b->dtype == DTYPE_BF16);
    assert_int_equal(b->n_dim, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 12);
    assert_string_equal(st_file_path(s, b->file), tempdir_join(&dir, "model.safetensors"));
    assert_null(st_find(s, "c"));
    assert_null(st_find(s, ""));

    assert_ok(st_read(s, b, 0, bytes, 12, &err), &err);
    for (int i = 0; i < 12; i++) {
        assert_int_equal(bytes[i], 8 + i);
    }
    assert_ok(st_read(s, b, 11, bytes, 1, &err), &err);
    assert_int_equal(bytes[0], 19);
    assert_ok(st_read(s, b, 12, bytes, 0, &err), &err);
    assert_error(st_read(s, b, 11, bytes, 2, &err), &err, ERROR_SHAPE, "b", "12");
    assert_error(st_read(s, b, UINT64_MAX, bytes, 2, &err), &err, ERROR_SHAPE, "b", "12");
    st_close(s);
    tempdir_clear(&dir);
}

static void shapes_and_dtypes_are_required(void **state) {
    (void)state;
    put("model.safetensors",
        "{" A ",\"q\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[8,10]},"
        "\"n\":{\"dtype\":\"NEW7\",\"shape\":[2],\"data_offsets\":[10,12]}}",
        12);
    struct st_set *s = must_open();
    struct error err = {0};
    const struct st_tensor *t = NULL;
    const int64_t two[] = {2}, three[] = {3}, matrix[] = {2, 1};

    assert_ok(st_require(s, "a", 1, two, &t, &err), &err);
    assert_ptr_equal(t, st_find(s, "a"));
    assert_error(st_require(s, "a", 1, three, &t, &err), &err, ERROR_ST_TENSOR,
                 "model.safetensors: a: shape [2]", "[3]");
    assert_error(st_require(s, "a", 2, matrix, &t, &err), &err, ERROR_ST_TENSOR,
                 "model.safetensors: a: shape [2]", "[2, 1]");
    assert_error(st_require(s, "model.norm.weight", 1, two, &t, &err), &err, ERROR_ST_TENSOR,
                 "model.safetensors: model.norm.weight", "missing");
    assert_error(st_require(s, "q", 1, two, &t, &err), &err, ERROR_UNSUPPORTED,
                 "model.safetensors: q", "F8_E4M3");
    assert_error(st_require(s, "n", 1, two, &t, &err), &err, ERROR_UNSUPPORTED,
                 "model.safetensors: n", "NEW7");
    st_close(s);
    tempdir_clear(&dir);
}

/* The hub's cache keeps files as links into a folder of blobs. */
static void links_are_followed(void **state) {
    (void)state;
    put("blob", "{" A "}", 8);
    assert_int_equal(symlink("blob", tempdir_join(&dir, "link")), 0);
    assert_int_equal(symlink("link", tempdir_join(&dir, "model.safetensors")), 0);
    struct st_set *s = must_open();
    assert_int_equal(st_count(s), 1);
    st_close(s);
    tempdir_clear(&dir);
}

static void a_file_that_shrinks_is_noticed(void **state) {
    (void)state;
    put("model.safetensors", "{" A "," B "}", 20);
    struct st_set *s = must_open();
    struct error err = {0};
    struct stat st;
    unsigned char bytes[12];
    const char *path = tempdir_join(&dir, "model.safetensors");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 5), 0);
    assert_error(st_read(s, st_find(s, "b"), 0, bytes, 12, &err), &err, ERROR_ST_TRUNCATED,
                 "model.safetensors", "b: ");
    assert_ok(st_read(s, st_find(s, "a"), 0, bytes, 8, &err), &err);
    st_close(s);
    tempdir_clear(&dir);
}

/* ---- shards ---- */

#define SHARD1 "model-00001-of-00002.safetensors"
#define SHARD2 "model-00002-of-00002.safetensors"
#define INDEX  "model.safetensors.index.json"

static void put_shards(void) {
    put(SHARD1, "{" A "," B "}", 20);
    put(SHARD2, "{\"c\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4);
}

static void shards_make_one_set(void **state) {
    (void)state;
    put_shards();
    tempdir_text(&dir, INDEX,
                 "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"a\":\"" SHARD1
                 "\",\"c\":\"" SHARD2 "\",\"b\":\"" SHARD1 "\"}}");
    struct st_set *s = must_open();
    struct error err = {0};
    unsigned char byte;
    assert_int_equal(st_count(s), 3);
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(st_find(s, st_at(s, i)->name), st_at(s, i));
    }
    assert_string_equal(st_file_path(s, st_find(s, "c")->file), tempdir_join(&dir, SHARD2));
    assert_ok(st_read(s, st_find(s, "b"), 1, &byte, 1, &err), &err);
    assert_int_equal(byte, 9);
    assert_ok(st_read(s, st_find(s, "c"), 1, &byte, 1, &err), &err);
    assert_int_equal(byte, 1);
    st_close(s);
    tempdir_clear(&dir);
}

/* A tensor that two shards hold is the one of the index; one that is not listed is not there. */
static void the_index_decides(void **state) {
    (void)state;
    put(SHARD1, "{" A "," B "}", 20);
    put(SHARD2, "{" A "}", 8);
    tempdir_text(&dir, INDEX, "{\"weight_map\":{\"a\":\"" SHARD2 "\",\"b\":\"" SHARD1 "\"}}");
    struct st_set *s = must_open();
    assert_int_equal(st_count(s), 2);
    assert_string_equal(st_file_path(s, st_find(s, "a")->file), tempdir_join(&dir, SHARD2));
    st_close(s);
    tempdir_text(&dir, INDEX, "{\"weight_map\":{\"a\":\"" SHARD2 "\"}}");
    s = must_open();
    assert_int_equal(st_count(s), 1);
    st_close(s);
    put("model.safetensors", "{}", 0); /* a single file goes before an index */
    s = must_open();
    assert_int_equal(st_count(s), 0);
    st_close(s);
    tempdir_clear(&dir);
}

static void bad_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *index;
        enum error_kind kind;
        const char *text;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../" SHARD1 "\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"sub/x\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"..\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\".\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"\"}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":7}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":null}}", ERROR_ST_HEADER, "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"missing.safetensors\"}}", ERROR_IO, "missing.safetensors"},
        {"{\"weight_map\":{\"nope\":\"" SHARD1 "\"}}", ERROR_ST_HEADER, "weight_map: nope: "},
        {"{\"weight_map\":{\"c\":\"" SHARD1 "\"}}", ERROR_ST_HEADER, "weight_map: c: " SHARD1},
        {"{\"weight_map\":{\"c\":\"" SHARD2 "\",\"a\":\"" SHARD2 "\"}}", ERROR_ST_HEADER,
         "weight_map: a: "},
        {"{\"weight_map\":{\"a\":\"" INDEX "\"}}", ERROR_ST_HEADER, INDEX},
        {"{\"weight_map\":[]}", ERROR_ST_HEADER, "weight_map"},
        {"{}", ERROR_ST_HEADER, "weight_map: missing"},
        {"[]", ERROR_ST_HEADER, INDEX},
        {"{\"weight_map\":", ERROR_JSON, INDEX},
        {"{\"weight_map\":{\"a\":\"" SHARD1 "\",\"a\":\"" SHARD2 "\"}}", ERROR_JSON, "duplicate"},
        {"", ERROR_JSON, INDEX},
    };
    put_shards();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tempdir_text(&dir, INDEX, cases[i].index);
        must_refuse(cases[i].kind, INDEX, cases[i].text);
    }
    put(SHARD2, "{\"c\":{}}", 4); /* a shard that is broken is named */
    tempdir_text(&dir, INDEX, "{\"weight_map\":{\"c\":\"" SHARD2 "\"}}");
    must_refuse(ERROR_ST_HEADER, SHARD2, "c: dtype");
    tempdir_clear(&dir);
}

/* ---- mutations ---- */

/* Reads the first and last byte of each tensor of a set that opened: whatever it claims is there.
 */
static void touch_all(struct st_set *s) {
    struct error err = {0};
    char byte;
    for (int i = 0; i < st_count(s); i++) {
        const struct st_tensor *t = st_at(s, i);
        if (t->bytes) {
            assert_ok(st_read(s, t, 0, &byte, 1, &err), &err);
            assert_ok(st_read(s, t, t->bytes - 1, &byte, 1, &err), &err);
        }
    }
}

static void mutated_headers_do_no_harm(void **state) {
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," B "," A "}  ";
    static const char alphabet[] = "{}[]\",:0123456789-.eEx\\u\n F\xff";
    unsigned char file[8 + sizeof header - 1 + 20], mutant[sizeof file];
    struct random r;
    int opened = 0;

    random_init(&r, 2);
    put("model.safetensors", header, 20);
    FILE *f = fopen(tempdir_join(&dir, "model.safetensors"), "rb");
    assert_int_equal(fread(file, 1, sizeof file, f), sizeof file);
    fclose(f);
    for (int round = 0; round < 4000; round++) {
        size_t n = sizeof file;
        memcpy(mutant, file, n);
        for (uint64_t k = 1 + random_u64(&r) % 3; k > 0; k--) {
            size_t at = random_u64(&r) % (sizeof file - 20);
            mutant[at] = random_u64(&r) % 4
                             ? (unsigned char)alphabet[random_u64(&r) % (sizeof alphabet - 1)]
                             : (unsigned char)random_u64(&r);
        }
        if (random_u64(&r) % 8 == 0) {
            n = random_u64(&r) % (n + 1);
        }
        tempdir_write(&dir, "model.safetensors", mutant, n);
        struct st_set *s = NULL;
        struct error err = {0};
        if (st_open(&s, dir.path, &err)) {
            opened++;
            touch_all(s);
            st_close(s);
        } else {
            assert_non_null(strstr(err.message, "model.safetensors"));
            assert_null(strchr(err.message, '\n'));
        }
    }
    assert_in_range(opened, 1, 3999); /* some mutations, of a name for one, leave a valid file */
    tempdir_clear(&dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers_name_file_tensor_and_field),
        cmocka_unit_test(truncation_tells_claimed_and_actual),
        cmocka_unit_test(header_lengths_are_not_believed),
        cmocka_unit_test(nesting_bombs_are_errors),
        cmocka_unit_test(only_regular_files_are_read),
        cmocka_unit_test(good_headers_load),
        cmocka_unit_test(tensors_are_found_and_read),
        cmocka_unit_test(shapes_and_dtypes_are_required),
        cmocka_unit_test(links_are_followed),
        cmocka_unit_test(a_file_that_shrinks_is_noticed),
        cmocka_unit_test(shards_make_one_set),
        cmocka_unit_test(the_index_decides),
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(mutated_headers_do_no_harm),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
