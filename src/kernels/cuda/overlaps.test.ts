import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { quantizationRules } from '../../compiler/quantization-rules.ts';
import { findPreset } from '../../models/presets.ts';
import { DEFAULT_QUANTIZATION_KEEP } from '../../tensor/precision.ts';
import { cudaPlan, HOPPER, kernelLaunches } from '../../../test/support/cuda-launches.ts';
import { loadReference } from '../../../test/support/reference-checkpoint.ts';
import type { KernelLaunch } from './cuda-kernel.ts';

const KERNEL = 'extern "C" __global__';
const WAIT = /(?<!void )wait_for_previous\(\)/;

/** A source with the headers that it includes, the kernels at its end. */
function sourceText(file: string): string {
  const text = readFileSync(new URL(file, import.meta.url), 'utf8');
  const headers = [...text.matchAll(/^#include "(.+)"$/gm)].map(([, name]) => sourceText(name));
  return [...headers, text].join('\n');
}

/** What runs in a kernel: of a source with several only its own, and the macros that it uses. */
function kernelText({ source, entry }: KernelLaunch): string {
  const text = sourceText(source);
  const [shared, ...kernels] = text.split(KERNEL);
  const own = kernels.filter((kernel) => new RegExp(`\\b${entry}\\(`).test(kernel)).join('\n');
  if (kernels.every((kernel) => own.includes(kernel))) return text;
  const macros = [...shared.matchAll(/^#define (\w+)((?:.*\\\n)*.*)$/gm)];
  return [own, ...macros.filter(([, name]) => own.includes(name)).map(([, , body]) => body)].join('\n');
}

it('a kernel that may start while the launch before it drains waits for its end', () => {
  const recipes = [null, 'int8', 'int4', 'fp8'] as const;
  const configs = [
    ...['llama-2-7b', 'mixtral-8x7b', 'gpt2'].map((name) => findPreset(name)!.config),
    ...['deepseek_v2', 'gemma2'].map((name) => loadReference(name).config),
  ];
  const launches = configs.flatMap((config) =>
    recipes.flatMap((name) => {
      const groupSize = name === 'int4' ? 32 : null;
      const quantization = name && quantizationRules(name, groupSize, DEFAULT_QUANTIZATION_KEEP);
      return kernelLaunches(cudaPlan(config, 'bfloat16', HOPPER, { quantization }), HOPPER);
    }),
  );
  const overlapping = new Map(
    launches.filter(({ overlaps }) => overlaps).map((launch) => [`${launch.source} ${launch.entry}`, launch]),
  );
  expect(overlapping.size).toBeGreaterThan(15);
  for (const [name, launch] of overlapping) expect(kernelText(launch), name).toMatch(WAIT);
});
