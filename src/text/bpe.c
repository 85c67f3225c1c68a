#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

/* A token of the word, in a doubly linked list over positions. */
struct bpe_symbol {
    int32_t id;     /* -1: merged into its left neighbour */
    int32_t next;   /* position; -1 at the end */
    int32_t prev;   /* position; -1 at the start */
    uint32_t merge; /* rank of merging with next; NO_MERGE: cannot */
};

#define NO_MERGE UINT32_MAX

static size_t merge_slot(const struct bpe *b, int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h >> 32) & (b->merges_size - 1);
    while (b->merges[i].left >= 0 && (b->merges[i].left != left || b->merges[i].right != right)) {
        i = (i + 1) & (b->merges_size - 1);
    }
    return i;
}

static size_t longest_token(const struct bpe *b) {
    size_t longest = 0, n;
    for (int i = 0; i < 256; i++) {
        if (b->byte_id[i] < 0) {
            return 0;
        }
    }
    for (int32_t id = 0; id < b->vocab->size; id++) {
        vocab_bytes(b->vocab, id, &n);
        longest = n > longest ? n : longest;
    }
    return longest;
}

bool bpe_init(struct bpe *b, const struct vocab *vocab, size_t n_merge, struct error *err) {
    *b = (struct bpe){.vocab = vocab, .merges_size = 64, .unk_id = -1};
    while (b->merges_size < n_merge + n_merge / 2) {
        b->merges_size *= 2;
    }
    b->merges = malloc(b->merges_size * sizeof *b->merges);
    if (!b->merges) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a table of %zu merges", n_merge);
    }
    for (size_t i = 0; i < b->merges_size; i++) {
        b->merges[i].left = -1;
    }
    for (int i = 0; i < 256; i++) {
        unsigned char byte = (unsigned char)i;
        b->byte_id[i] = vocab_find(vocab, &byte, 1);
    }
    b->longest = longest_token(b);
    return true;
}

size_t bpe_least_tokens(const struct bpe *b, size_t n) {
    return b->longest ? (n + b->longest - 1) / b->longest : 0;
}

bool bpe_add_merge(struct bpe *b, uint32_t rank, const void *left, size_t n_left, const void *right,
                   size_t n_right, struct error *err) {
    int32_t l = vocab_find(b->vocab, left, n_left);
    int32_t r = vocab_find(b->vocab, right, n_right);
    if (l < 0 || r < 0) {
        return error_set(err, ERROR_TOKENIZER, "its %s part is not in model.vocab",
                         l < 0 ? "first" : "second");
    }
    unsigned char joined[VOCAB_MAX_TOKEN_BYTES];
    int32_t result = -1;
    if (n_left + n_right <= sizeof joined) {
        memcpy(joined, left, n_left);
        memcpy(joined + n_left, right, n_right);
        result = vocab_find(b->vocab, joined, n_left + n_right);
    }
    if (result < 0) {
        return error_set(err, ERROR_TOKENIZER, "the merged token is not in model.vocab");
    }
    struct bpe_merge *m = &b->merges[merge_slot(b, l, r)];
    if (m->left >= 0) {
        return error_set(err, ERROR_TOKENIZER, "repeats model.merges[%u]", m->rank);
    }
    *m = (struct bpe_merge){.left = l, .right = r, .result = result, .rank = rank};
    return true;
}

static bool scratch_reserve(struct bpe_scratch *s, size_t n, struct error *err) {
    if (n <= s->capacity) {
        return true;
    }
    size_t capacity = n < 64 ? 64 : n;
    bpe_scratch_finish(s);
    /* Pairs that enter the heap: one for each position, and two for each of fewer merges. */
    s->symbols = malloc(capacity * sizeof *s->symbols);
    s->heap = malloc(3 * capacity * sizeof *s->heap);
    if (!s->symbols || !s->heap) {
        bpe_scratch_finish(s);
        return error_set(err, ERROR_MEMORY, "cannot allocate room for a word of %zu bytes", n);
    }
    s->capacity = capacity;
    return true;
}

/* A binary min-heap of (rank, position) in one number. */
static void heap_push(struct bpe_scratch *s, uint64_t key) {
    size_t i = s->n_heap++;
    while (i > 0 && s->heap[(i - 1) / 2] > key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = key;
}

static uint64_t heap_pop(struct bpe_scratch *s) {
    uint64_t top = s->heap[0];
    uint64_t last = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t child = 1; child < s->n_heap; child = 2 * i + 1) {
        if (child + 1 < s->n_heap && s->heap[child + 1] < s->heap[child]) {
            child++;
        }
        if (s->heap[child] >= last) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

/* Looks up whether the symbol at `at` merges with the next, and queues it. */
static void find_merge(const struct bpe *b, struct bpe_scratch *s, int32_t at) {
    struct bpe_symbol *sym = &s->symbols[at];
    sym->merge = NO_MERGE;
    if (sym->next < 0) {
        return;
    }
    const struct bpe_merge *m = &b->merges[merge_slot(b, sym->id, s->symbols[sym->next].id)];
    if (m->left >= 0) {
        sym->merge = m->rank;
        heap_push(s, (uint64_t)m->rank << 32 | (uint32_t)at);
    }
}

/* Lays out the word as one token per byte; returns how many there are. */
static int32_t lay_out(const struct bpe *b, struct bpe_scratch *s, const unsigned char *word,
                       size_t n) {
    int32_t count = 0;
    bool unknown = false; /* the byte before was */
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[word[i]];
        bool skip = id < 0 && (b->unk_id < 0 || (unknown && b->fuse_unk));
        unknown = id < 0;
        if (!skip) {
            s->symbols[count] = (struct bpe_symbol){
                .id = id < 0 ? b->unk_id : id, .prev = count - 1, .next = count + 1};
            count++;
        }
    }
    if (count) {
        s->symbols[count - 1].next = -1;
    }
    return count;
}

static void merge_all(const struct bpe *b, struct bpe_scratch *s, int32_t count) {
    struct bpe_symbol *sym = s->symbols;
    s->n_heap = 0;
    for (int32_t i = 0; i < count; i++) {
        find_merge(b, s, i);
    }
    while (s->n_heap) {
        uint64_t key = heap_pop(s);
        int32_t at = (int32_t)(key & UINT32_MAX);
        if (sym[at].id < 0 || sym[at].merge != key >> 32) {
            continue; /* a neighbour has merged since */
        }
        int32_t gone = sym[at].next;
        sym[at].id = b->merges[merge_slot(b, sym[at].id, sym[gone].id)].result;
        sym[at].next = sym[gone].next;
        sym[gone].id = -1;
        if (sym[at].next >= 0) {
            sym[sym[at].next].prev = at;
        }
        find_merge(b, s, at);
        if (sym[at].prev >= 0) {
            find_merge(b, s, sym[at].prev);
        }
    }
}

bool bpe_encode(const struct bpe *b, struct bpe_scratch *scratch, const unsigned char *word,
                size_t n, struct token_list *out, struct error *err) {
    if (b->ignore_merges && n <= VOCAB_MAX_TOKEN_BYTES) {
        int32_t whole = vocab_find(b->vocab, word, n);
        if (whole >= 0) {
            return token_list_push(out, whole, err);
        }
    }
    if (!scratch_reserve(scratch, n, err)) {
        return false;
    }
    int32_t count = lay_out(b, scratch, word, n);
    merge_all(b, scratch, count);
    for (int32_t i = count ? 0 : -1; i >= 0; i = scratch->symbols[i].next) {
        if (!token_list_push(out, scratch->symbols[i].id, err)) {
            return false;
        }
    }
    return true;
}

void bpe_finish(struct bpe *b) {
    free(b->merges);
    *b = (struct bpe){0};
}

void bpe_scratch_finish(struct bpe_scratch *s) {
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}
