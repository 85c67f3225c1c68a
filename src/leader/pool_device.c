/* Which device all ranks take, from what each has said of itself in hello. */
#include "leader/pool_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

static bool refuse(const struct pool *p, pool_group_key *key, const char *head, struct error *err) {
    struct buffer text = {0};
    pool_describe_groups(p, key, &text);
    error_set(err, ERROR_DEVICE, "%s%s", head, text.size ? (const char *)text.data : "");
    buffer_finish(&text);
    return false;
}

/* ---- can all ranks use CUDA, and together? ---- */

static bool has_cuda(const struct message_hello_ok *h) {
    return strncmp(h->device, "cuda:", 5) == 0;
}

static const char *why_not(const struct pool *p, int rank) {
    const struct message_hello_ok *h = &p->ranks[rank];
    return has_cuda(h) ? NULL : *h->device_why ? h->device_why : "it was not asked for";
}

static const char *nccl_version(const struct pool *p, int rank) {
    return p->ranks[rank].nccl;
}

static bool all_have_cuda(const struct pool *p, struct error *err) {
    for (int r = 0; r < p->world; r++) {
        if (!has_cuda(&p->ranks[r])) {
            return refuse(p, why_not, "", err);
        }
    }
    return true;
}

static bool same_nccl(const struct pool *p, struct error *err) {
    for (int r = 1; r < p->world; r++) {
        if (p->ranks[r].nccl_code != p->ranks[0].nccl_code ||
            strcmp(p->ranks[r].nccl, p->ranks[0].nccl) != 0) {
            return refuse(p, nccl_version, "the ranks' NCCL differs: ", err);
        }
    }
    return true;
}

static bool may_share(const struct message_hello_ok *h) {
    enum { NCCL_2_30 = 23000 };
    return h->nccl_code >= NCCL_2_30 && h->gpu_shared == 1;
}

static bool same_gpu(const struct message_hello_ok *a, const struct message_hello_ok *b) {
    return *a->gpu_pci && strcmp(a->gpu_pci, b->gpu_pci) == 0 && strcmp(a->host, b->host) == 0;
}

/* Counts the ranks of every GPU. */
static bool gpu_each(struct pool *p, struct error *err) {
    p->sharers = 1;
    for (int r = 0; r < p->world; r++) {
        int n = 1;
        for (int other = r + 1; other < p->world; other++) {
            const struct message_hello_ok *a = &p->ranks[r], *b = &p->ranks[other];
            if (!same_gpu(a, b)) {
                continue;
            }
            if (!may_share(a) || !may_share(b)) {
                return error_set(err, ERROR_DEVICE,
                                 "ranks %d and %d on %s have the same GPU, %s at PCI %s: start one "
                                 "rank per GPU (or, from NCCL 2.30 on, set "
                                 "NCCL_MULTI_RANK_GPU_ENABLE=1; this is NCCL %s)",
                                 r, other, a->host, a->gpu, a->gpu_pci, a->nccl);
            }
            n++;
        }
        p->sharers = n > p->sharers ? n : p->sharers;
    }
    return true;
}

/* ---- the choice ---- */

static bool sees_gpu(const struct pool *p) {
    for (int r = 0; r < p->world; r++) {
        if (p->ranks[r].n_gpu != 0) {
            return true;
        }
    }
    return false;
}

static bool choose_dtype(struct pool *p, struct error *err) {
    const char *asked = p->options.dtype ? p->options.dtype : "auto";
    bool cuda = strcmp(p->device, "cuda") == 0;
    bool is_auto = strcmp(asked, "auto") == 0;
    snprintf(p->dtype, sizeof p->dtype, "%s", !is_auto ? asked : cuda ? "bf16" : "f32");
    return cuda || strcmp(p->dtype, "f32") == 0 ||
           error_set(err, ERROR_UNSUPPORTED,
                     "--dtype %s: every rank computes on the host, which has only f32", asked);
}

bool pool_choose_device(struct pool *p, struct error *err) {
    const char *wish = p->options.device ? p->options.device : "host";
    struct error why = {0};
    bool wanted = strcmp(wish, "host") != 0;
    bool cuda = wanted && all_have_cuda(p, &why) && same_nccl(p, &why) && gpu_each(p, &why);
    if (!cuda && strcmp(wish, "cuda") == 0) {
        return error_set(err, ERROR_DEVICE, "--device cuda: %s", why.message);
    }
    p->device_note[0] = 0;
    p->sharers = cuda ? p->sharers : 1;
    for (int r = 0; r < p->world && !cuda; r++) {
        snprintf(p->ranks[r].device, sizeof p->ranks[r].device, "host");
    }
    if (wanted && !cuda && sees_gpu(p)) { /* nobody asked for CUDA by name, but may wonder */
        snprintf(p->device_note, sizeof p->device_note, "%s", why.message);
        log_info("every rank computes on the host, CUDA is not used: %s", why.message);
    }
    snprintf(p->device, sizeof p->device, "%s", cuda ? "cuda" : "host");
    return choose_dtype(p, err);
}
