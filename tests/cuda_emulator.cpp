// Runs the kernel NAME of the fused scan, from the file SOURCE, through the emulator; C functions for ctypes.
#include "cuda_emulator.h"

#include <utility>
#include SOURCE

template <typename... Arguments, size_t... I>
void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<Arguments*>(arguments[I])...);
}
template <typename... Arguments>
void call(void (*kernel)(Arguments...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Arguments...>{});
}

// arguments: a pointer to each, as for cuLaunchKernel.
extern "C" void run(void** arguments, Index grid, size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [](void** values) { call(NAME, values); }, arguments);
}
