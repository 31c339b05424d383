// The kernels behind MatMul, one entry for each kind of instruction set.
#pragma once

#include "common/compute/matmul_task.h"

namespace baton {

// A thread's piece of a product. Which piece an output falls into never changes its bits.
struct MatMulBlock {
  int64_t first_group = 0;
  int64_t groups = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
};

// task.x: float32 [rows, padded_inputs]. All precisions but kF32 and kInt8A8; on the current instruction set up to
// kAvx512.
void MatMulLanes(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch);

// task.x: uint8_t [rows, padded_inputs]. kInt8A8, on every instruction set.
void MatMulInt8A8(const MatMulTask& task, const MatMulBlock& block);
// A row of activations for it: codes of -127 to 127, shifted by kInt8A8Shift, times the scale.
void QuantizeRow(const float* x, int64_t inputs, int64_t padded_inputs, uint8_t* to, float* scale);

#if defined(__x86_64__)
// What MatMulInt8A8 uses where it can.
void MatMulInt8A8Vnni(const MatMulTask& task, const MatMulBlock& block);
// task.x: pairs of bfloat16 [rows, padded_inputs / 2]. All precisions but kF32 and kInt8A8.
void MatMulAvx512Bf16(const MatMulTask& task, const MatMulBlock& block);
// The same with AMX, which kAmx uses.
void MatMulAmx(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch);
// A row of activations for either.
void PairRowAvx512Bf16(const float* x, int64_t inputs, int64_t padded_inputs, uint32_t* to);
#endif

}  // namespace baton
