/* Which NUMA nodes cores lie on, as a made-up /sys says. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/binding.h"

static char root[64];

static void make_folders(const char *path) {
    char partial[256];
    snprintf(partial, sizeof partial, "%s", path);
    for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(partial, 0700);
        *slash = '/';
    }
}

static void write_file(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/sys/devices/system/node/%s", root, name);
    make_folders(path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/lockstep-binding-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

/* Every step-th core from first on. */
static cpu_set_t cores(int first, int last, int step) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = first; i <= last; i += step) {
        CPU_SET((unsigned)i, &set);
    }
    return set;
}

/* Two nodes with cores, one of memory alone. */
static void make_two_nodes(void) {
    write_file("online", "0-2\n");
    write_file("node0/cpulist", "0-3,8-11\n");
    write_file("node1/cpulist", "4-7,12-15\n");
    write_file("node2/cpulist", "\n");
}

static void one_node_of_two(void **state) {
    (void)state;
    struct binding b;
    cpu_set_t set = cores(4, 7, 1);
    make_two_nodes();
    binding_read(root, &set, &b);
    assert_string_equal(b.cores, "4-7");
    assert_string_equal(b.nodes, "1");
    assert_int_equal(b.n_node, 1);
    assert_int_equal(b.n_node_host, 2);
}

static void both_nodes(void **state) {
    (void)state;
    struct binding b;
    cpu_set_t set = cores(3, 4, 1);
    make_two_nodes();
    binding_read(root, &set, &b);
    assert_string_equal(b.cores, "3-4");
    assert_string_equal(b.nodes, "0-1");
    assert_int_equal(b.n_node, 2);
}

static void a_host_that_does_not_say(void **state) {
    (void)state;
    struct binding b;
    cpu_set_t set = cores(0, 6, 2);
    binding_read(root, &set, &b);
    assert_string_equal(b.cores, "0,2,4,6");
    assert_string_equal(b.nodes, "");
    assert_int_equal(b.n_node_host, 0);
}

static void odd_files(void **state) {
    (void)state;
    struct binding b;
    cpu_set_t set = cores(0, 0, 1);
    const char *const lists[] = {"", "x", "0-", "-3", "3-1"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        write_file("online", lists[i]);
        write_file("node0/cpulist", lists[i]);
        binding_read(root, &set, &b);
        assert_in_range(b.n_node_host, 0, 1);
        assert_in_range(b.n_node, 0, b.n_node_host);
    }
}

static void a_long_list_is_cut(void **state) {
    (void)state;
    struct binding b;
    cpu_set_t set = cores(0, 1000, 2);
    binding_read(root, &set, &b);
    assert_int_equal(strlen(b.cores), sizeof b.cores - 1);
    assert_string_equal(b.cores + sizeof b.cores - 4, "...");
    assert_memory_equal(b.cores, "0,2,4,", 6);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(one_node_of_two), CASE(both_nodes),         CASE(a_host_that_does_not_say),
        CASE(odd_files),       CASE(a_long_list_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
