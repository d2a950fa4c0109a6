// Runs the kernels of kernels.cu on the processor (see emulate.h), and hands them to Rust by name.
#include "emulate.h"
#include <csetjmp>
#include <cstdlib>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

namespace f32 {
#define T_F32
#include "kernels.cu"
#undef T_F32
} // namespace f32

namespace bf16 {
#define T_BF16
#include "kernels.cu"
#undef T_BF16
} // namespace bf16

namespace emulation {
Dimension block_index, thread_index, block_size, grid_size;

namespace {
constexpr size_t STACK = 256 * 1024;
constexpr unsigned WARP = 32;

struct Barrier {
    unsigned arrived = 0, living = 0;
    uint64_t generation = 0;
};

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    char *stack = nullptr;
    bool ended = false;
};

std::vector<Fiber> fibers;
std::vector<Barrier> warps;
std::vector<uint64_t> slots;
Barrier whole;
unsigned running;
jmp_buf home_place;
void (*entry)(void **);
void **arguments;

// Back to the loop over fibers; returns when this fiber's turn comes again.
void yield() {
    if (!_setjmp(fibers[running].place)) _longjmp(home_place, 1);
}

void wait(Barrier &barrier) {
    uint64_t generation = barrier.generation;
    if (++barrier.arrived == barrier.living) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation) yield();
}

void leave(Barrier &barrier) {
    if (--barrier.living > 0 && barrier.arrived == barrier.living) {
        barrier.arrived = 0;
        barrier.generation++;
    }
}

// One thread of block after block: a fiber is made once, which costs system calls.
void body() {
    for (;;) {
        entry(arguments);
        fibers[running].ended = true;
        leave(warps[running / WARP]);
        leave(whole);
        yield();
    }
}

void resume(unsigned index) {
    Fiber &fiber = fibers[index];
    running = index;
    thread_index = {index, 0, 0};
    if (_setjmp(home_place)) return;
    if (fiber.stack) _longjmp(fiber.place, 1);
    fiber.stack = (char *)std::malloc(STACK);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, body, 0);
    setcontext(&fiber.start);
}

void run_block() {
    unsigned threads = block_size.x;
    if (fibers.size() < threads) fibers.resize(threads);
    warps.assign((threads + WARP - 1) / WARP, Barrier{});
    slots.assign(warps.size() * WARP, 0);
    whole = Barrier{};
    whole.living = threads;
    for (unsigned i = 0; i < threads; i++) {
        fibers[i].ended = false;
        warps[i / WARP].living++;
    }
    for (bool alive = true; alive;) {
        alive = false;
        for (unsigned i = 0; i < threads; i++)
            if (!fibers[i].ended) {
                resume(i);
                alive = alive || !fibers[i].ended;
            }
    }
}

template <typename... A, size_t... I> void call(void (*kernel)(A...), void **p, std::index_sequence<I...>) {
    kernel(*(A *)p[I]...);
}

template <typename... A> constexpr size_t count(void (*)(A...)) { return sizeof...(A); }

struct Entry {
    const char *name;
    void (*run)(void **);
    size_t arguments;
};

#define F32(name)                                                                                                      \
    {#name, [](void **p) { call(f32::name, p, std::make_index_sequence<count(f32::name)>()); }, count(f32::name)},
#define BF16(name)                                                                                                     \
    {#name, [](void **p) { call(bf16::name, p, std::make_index_sequence<count(bf16::name)>()); }, count(bf16::name)},

const Entry table_f32[] = {KERNELS(F32)};
const Entry table_bf16[] = {KERNELS(BF16)};
} // namespace

void block_barrier() { wait(whole); }
void warp_barrier() { wait(warps[running / WARP]); }
uint64_t &slot(unsigned lane) { return slots[running / WARP * WARP + lane]; }
} // namespace emulation

// Runs a kernel; 0, or 1 if there is none of that name, 2 if it takes another number of arguments.
extern "C" int emulate_kernel(const char *name, int half, const unsigned *grid, unsigned threads, void **arguments,
                              size_t count) {
    using namespace emulation;
    const Entry *found = nullptr;
    for (const Entry &entry : table_f32)
        if (!half && !std::strcmp(entry.name, name)) found = &entry;
    for (const Entry &entry : table_bf16)
        if (half && !std::strcmp(entry.name, name)) found = &entry;
    if (!found) return 1;
    if (found->arguments != count) return 2;
    entry = found->run;
    emulation::arguments = arguments;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {threads, 1, 1};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                run_block();
            }
    return 0;
}
