// The machine's limits, with all threads at once: memory read bandwidth, float32 multiply-add peak, bfloat16 and int8 dot peaks.
// g++ -O3 -std=c++17 -march=native -pthread bench/micro/roofs.cc -o roofs && ./roofs [threads]
// Prints one line of JSON: the best of several runs of each, in GB/s and GFLOP/s.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));

constexpr int kNumRuns = 7;
/// Independent sums: enough to hide the latency of an addition, few enough for sixteen registers.
constexpr int kNumSums = 10;

template <typename F>
double best_seconds(int num_threads, F work) {
  double best = 1e9;
  for (int run = 0; run < kNumRuns; run++) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < num_threads; i++) threads.emplace_back(work, i);
    for (std::thread& thread : threads) thread.join();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

double read_gbps(int num_threads) {
  constexpr int64_t kBytes = int64_t(1) << 30;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
#if defined(MADV_HUGEPAGE)
  madvise(memory, kBytes, MADV_HUGEPAGE);
#endif
  auto* words = static_cast<Words*>(memory);
  const int64_t count = kBytes / kVectorBytes;
  for (int64_t i = 0; i < count; i++) words[i] = Words{} + uint64_t(i);
  const double seconds = best_seconds(num_threads, [=](int thread) {
    const int64_t begin = count * thread / num_threads / 8 * 8, end = count * (thread + 1) / num_threads / 8 * 8;
    Words sums[8] = {};
    for (int64_t i = begin; i < end; i += 8) {
      __builtin_prefetch(words + i + 4096 / kVectorBytes, 0, 2);
      for (int j = 0; j < 8; j++) sums[j] ^= words[i + j];
    }
    for (int j = 0; j < 8; j++) asm volatile("" : : "m"(sums[j]));
  });
  munmap(memory, kBytes);
  return kBytes / seconds / 1e9;
}

constexpr int64_t kNumSteps = 20'000'000;

double multiply_add_gflops(int num_threads) {
  const double seconds = best_seconds(num_threads, [](int) {
    Floats sums[kNumSums] = {}, factor = Floats{} + 0.999f, term = Floats{} + 0.001f;
    asm volatile("" : "+m"(factor), "+m"(term));
    for (int64_t i = 0; i < kNumSteps; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kNumSums; j++) sums[j] = sums[j] * factor + term;
    }
    for (int j = 0; j < kNumSums; j++) asm volatile("" : : "m"(sums[j]));
  });
  return 2.0 * num_threads * kNumSteps * kNumSums * (kVectorBytes / 4) / seconds / 1e9;
}

double bfloat16_dot_gflops([[maybe_unused]] int num_threads) {
#if defined(__AVX512BF16__)
  const double seconds = best_seconds(num_threads, [](int) {
    __m512 sums[kNumSums] = {};
    __m512i pairs = _mm512_set1_epi16(0x3c00);
    asm volatile("" : "+m"(pairs));
    for (int64_t i = 0; i < kNumSteps; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kNumSums; j++) sums[j] = _mm512_dpbf16_ps(sums[j], (__m512bh)pairs, (__m512bh)pairs);
    }
    for (int j = 0; j < kNumSums; j++) asm volatile("" : : "m"(sums[j]));
  });
  return 4.0 * num_threads * kNumSteps * kNumSums * 16 / seconds / 1e9;
#else
  return 0;
#endif
}

double int8_dot_gops([[maybe_unused]] int num_threads) {
#if defined(__AVX512VNNI__)
  const double seconds = best_seconds(num_threads, [](int) {
    __m512i sums[kNumSums], codes = _mm512_set1_epi8(3);
    asm volatile("" : "+v"(codes));
    // Different from each other, or the compiler would compute one of equal sums only.
    for (int j = 0; j < kNumSums; j++) sums[j] = _mm512_set1_epi32(j);
    for (int64_t i = 0; i < kNumSteps; i++) {
#pragma GCC unroll 16
      for (int j = 0; j < kNumSums; j++) sums[j] = _mm512_dpbusd_epi32(sums[j], codes, codes);
    }
    for (int j = 0; j < kNumSums; j++) asm volatile("" : : "m"(sums[j]));
  });
  return 2.0 * num_threads * kNumSteps * kNumSums * 64 / seconds / 1e9;
#else
  return 0;
#endif
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : std::max(1u, std::thread::hardware_concurrency());
  std::printf("{\"threads\":%d,\"readGBps\":%.1f,\"multiplyAddGFlops\":%.1f,\"bfloat16DotGFlops\":%.1f,"
              "\"int8DotGops\":%.1f}\n",
              threads, read_gbps(threads), multiply_add_gflops(threads), bfloat16_dot_gflops(threads),
              int8_dot_gops(threads));
}
