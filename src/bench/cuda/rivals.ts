// What others reached with the same model and shape: published, or measured on the same kind of GPU.
import type { ModelChoice } from './model.ts';

/** PyTorch 2.11 on an H200: a static batch, compiled, replayed as a CUDA graph. TensorRT-LLM as its makers publish it. */
const RIVALS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'llama-2-7b': { 'decode-1': 'PyTorch 5.55', 'decode-128': 'PyTorch 21.4', 'prefill-1024': 'PyTorch 23.3' },
  'llama-2-7b fp8': { 'prefill-2048': 'TensorRT-LLM 30.2' },
  'llama-2-70b fp8': {
    'decode-1': 'PyTorch 27.0',
    'decode-128': 'PyTorch 34.7, 16-bit KV',
    'prefill-1024': 'PyTorch 124',
    'offline-128-128': 'TensorRT-LLM (3.1-70B) 4021',
    'offline-128-2048': 'TensorRT-LLM (3.1-70B) 4336',
    'offline-1000-1000': 'TensorRT-LLM (3.1-70B) 2909',
    'offline-2048-128': 'TensorRT-LLM (3.1-70B) 466',
  },
  'llama-3.1-8b': {
    'offline-128-128': 'TensorRT-LLM (H100) 15572',
    'offline-128-2048': 'TensorRT-LLM (H100) 9151',
    'offline-1000-1000': 'TensorRT-LLM (H100) 7055',
    'offline-2048-128': 'TensorRT-LLM (H100) 1904',
  },
  'llama-3.1-8b fp8': {
    'offline-128-128': 'TensorRT-LLM 29526',
    'offline-128-2048': 'TensorRT-LLM 26221',
    'offline-1000-1000': 'TensorRT-LLM 17744',
    'offline-2048-128': 'TensorRT-LLM 3794',
  },
};

export function rivalOf({ preset, quantization }: ModelChoice, row: string): string | null {
  const name = quantization === null ? preset : `${preset} ${quantization}`;
  return RIVALS[name]?.[row] ?? null;
}
