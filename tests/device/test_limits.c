/* What is free, and the cores that are granted, as made-up proc and sys folders tell it; and the
 * real limits of this process. */
#include "tempdir.h"

#include <math.h>
#include <sys/resource.h>

#include "base/cgroup.h"
#include "device/host/host_limits.h"

enum { MIB = 1 << 20 };

/* A folder that stands for the root, with the files of one host. */
static void put(const struct tempdir *d, const char *path, const char *text) {
    char dir[512];
    snprintf(dir, sizeof dir, "%s/%s", d->path, path);
    for (char *slash = dir + strlen(d->path) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(dir, 0700);
        *slash = '/';
    }
    tempdir_write(d, path, text, strlen(text));
}

static void make_host(struct tempdir *d, const char *cgroup) {
    tempdir_make(d);
    put(d, "proc/meminfo", "MemTotal: 4096 kB\nMemAvailable:    2048 kB\n");
    put(d, "proc/self/cgroup", cgroup);
}

static void remove_host(struct tempdir *d) {
    char command[600];
    snprintf(command, sizeof command, "rm -r '%s'", d->path);
    assert_int_equal(system(command), 0);
}

/* What is read of it; removes it. */
static struct host_limits read_host(struct tempdir *d) {
    struct host_limits l;
    host_limits_read(d->path, &l);
    remove_host(d);
    return l;
}

static void no_group_no_limit(void **state) {
    (void)state;
    struct tempdir d;
    make_host(&d, "0::/\n");
    struct host_limits l = read_host(&d);
    assert_int_equal(l.host, 2 * MIB);
    assert_true(l.group == UINT64_MAX);
    assert_int_equal(host_limits_least(&l), 2 * MIB);
}

/* The tightest of the groups counts, and which one that is; page cache is free. */
static void version_2_looks_up_to_the_root(void **state) {
    (void)state;
    struct tempdir d;
    uint64_t ids[2];
    for (int task = 0; task < 2; task++) {
        make_host(&d, task ? "0::/job/task1\n" : "0::/job/task0\n");
        put(&d, "sys/fs/cgroup/job/memory.max", "10000000\n");
        put(&d, "sys/fs/cgroup/job/memory.current", "4000000\n");
        put(&d, "sys/fs/cgroup/job/memory.stat",
            "anon 7\nactive_file 1000000\ninactive_file 500000\n");
        put(&d, "sys/fs/cgroup/job/task0/memory.max", "max\n");
        put(&d, "sys/fs/cgroup/job/task0/memory.current", "100\n");
        put(&d, "sys/fs/cgroup/job/task1/memory.max", "9000000\n");
        put(&d, "sys/fs/cgroup/job/task1/memory.current", "100\n");
        struct host_limits l = read_host(&d);
        assert_int_equal(l.group, 10000000 - 2500000);
        ids[task] = l.group_id;
    }
    assert_int_equal(ids[0], ids[1]); /* both draw on the job's */
    make_host(&d, "0::/job/task0\n");
    put(&d, "sys/fs/cgroup/job/task0/memory.max", "1000\n");
    put(&d, "sys/fs/cgroup/job/task0/memory.current", "2000\n");
    struct host_limits l = read_host(&d);
    assert_int_equal(l.group, 0); /* beyond its limit already */
    assert_int_not_equal(l.group_id, ids[0]);
}

static void version_1_by_its_controller(void **state) {
    (void)state;
    struct tempdir d;
    make_host(&d, "12:cpuset:/x\n7:hugetlb,memory:/slurm/job3\n0::/y\n");
    put(&d, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put(&d, "sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n");
    put(&d, "sys/fs/cgroup/memory/slurm/job3/memory.limit_in_bytes", "3000000\n");
    put(&d, "sys/fs/cgroup/memory/slurm/job3/memory.usage_in_bytes", "1200000\n");
    put(&d, "sys/fs/cgroup/memory/slurm/job3/memory.stat",
        "inactive_file 1\ntotal_inactive_file 100000\ntotal_active_file 100000\n");
    assert_int_equal(read_host(&d).group, 2000000);
    /* In a container the group's outer name is not there, and its files are the root's. */
    make_host(&d, "7:memory:/docker/abc\n");
    put(&d, "sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
    put(&d, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
    assert_int_equal(read_host(&d).group, 2000000);
}

/* The tightest of the groups up to the root, version 2 and 1, where its controller may share a
 * hierarchy with another one. */
static void cores_that_are_granted(void **state) {
    (void)state;
    static const struct {
        const char *cgroup, *files[2][2]; /* below sys/fs/cgroup */
        double cores;
    } cases[] = {
        {"0::/job/task0\n", {{0}}, (double)INFINITY},
        {"0::/job/task0\n",
         {{"job/cpu.max", "150000 100000\n"}, {"job/task0/cpu.max", "max 100000\n"}},
         1.5},
        {"0::/job/task0\n",
         {{"job/cpu.max", "150000 100000\n"}, {"job/task0/cpu.max", "25000 50000\n"}},
         0.5},
        {"0::/\n", {{"cpu.max", "300000 100000\n"}}, 3}, /* a container's own */
        {"12:cpuset:/x\n3:cpu,cpuacct:/docker/abc\n0::/y\n",
         {{"cpu/cpu.cfs_quota_us", "200000\n"}, {"cpu/cpu.cfs_period_us", "100000\n"}},
         2},
        {"3:cpu,cpuacct:/job\n",
         {{"cpu/job/cpu.cfs_quota_us", "-1\n"}, {"cpu/job/cpu.cfs_period_us", "100000\n"}},
         (double)INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tempdir d;
        make_host(&d, cases[i].cgroup);
        for (int f = 0; f < 2 && cases[i].files[f][0]; f++) {
            char path[128];
            snprintf(path, sizeof path, "sys/fs/cgroup/%s", cases[i].files[f][0]);
            put(&d, path, cases[i].files[f][1]);
        }
        double cores = cgroup_cores(d.path);
        remove_host(&d);
        assert_true(cores == cases[i].cores);
    }
}

static void limits_of_the_process(void **state) {
    (void)state;
    static const int which[] = {RLIMIT_AS, RLIMIT_DATA};
    const uint64_t limit = (uint64_t)1 << 46; /* sanitizers take 2^44 */
    for (int i = 0; i < 2; i++) {
        struct host_limits l;
        struct rlimit old, less;
        assert_int_equal(getrlimit(which[i], &old), 0);
        less = (struct rlimit){limit, old.rlim_max};
        assert_int_equal(setrlimit(which[i], &less), 0);
        host_limits_read("", &l);
        assert_int_equal(setrlimit(which[i], &old), 0);
        assert_true(l.own < limit); /* what it has already counts */
        assert_true(l.own > limit / 4 || old.rlim_cur != RLIM_INFINITY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_group_no_limit),
        cmocka_unit_test(version_2_looks_up_to_the_root),
        cmocka_unit_test(version_1_by_its_controller),
        cmocka_unit_test(cores_that_are_granted),
        cmocka_unit_test(limits_of_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
