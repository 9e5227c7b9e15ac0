// Launch description of linear: which product multiplies a weight of which type, and what scratch it packs into.
import type { KernelQuery, WeightLayout } from '../kernel.ts';
import type { CpuKernelDescription } from './cpu-kernel.ts';

interface Product {
  readonly kernel: string;
  readonly layout: WeightLayout;
  /** Columns of activations that a packed 32-bit word holds. */
  readonly columnsPerWord: 1 | 2;
}

const FLOAT32: Product = { kernel: 'linear_fp32', layout: 'panel16', columnsPerWord: 1 };
const FLOAT16: Product = { kernel: 'linear_fp16', layout: 'panel16', columnsPerWord: 1 };
const BFLOAT16: Product = { kernel: 'linear_bf16', layout: 'panel16x2', columnsPerWord: 1 };
/** Rounds activations to bfloat16 and multiplies pairs of them by one instruction. */
const BFLOAT16_DOT: Product = { kernel: 'linear_bf16_dot', layout: 'panel16x2', columnsPerWord: 2 };

function productFor({ arch, weightDType, activationPrecision }: KernelQuery): Product {
  if (weightDType === 'float32') return FLOAT32;
  if (weightDType === 'float16') return FLOAT16;
  return arch === 'avx512-bf16' && activationPrecision !== 'float32' ? BFLOAT16_DOT : BFLOAT16;
}

export const linear: CpuKernelDescription = {
  op: 'linear',
  weightLayout: (query) => productFor(query).layout,
  variants: (query) => [{ kernel: productFor(query).kernel, maxRows: null }],
  workspaceBytes(query) {
    const { layout, columnsPerWord } = productFor(query);
    const columns =
      layout === 'panel16x2' ? query.weightColumns + (query.weightColumns % 2) : query.weightColumns;
    return query.maxRows * (columns / columnsPerWord) * 4;
  },
};
