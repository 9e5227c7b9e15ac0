import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { findPreset } from '../../models/presets.ts';
import { cudaPlan, HOPPER, kernelLaunches } from '../../../test/support/cuda-launches.ts';

/** A source with the headers that it includes. */
function sourceText(file: string): string {
  const text = readFileSync(new URL(file, import.meta.url), 'utf8');
  const headers = [...text.matchAll(/^#include "(.+)"$/gm)].map(([, name]) => sourceText(name));
  return [text, ...headers].join('\n');
}

it('a kernel that may start while the launch before it drains waits for its end', () => {
  const launches = ['llama-2-7b', 'mixtral-8x7b'].flatMap((name) =>
    kernelLaunches(cudaPlan(findPreset(name)!.config, 'bfloat16', HOPPER), HOPPER),
  );
  const overlapping = new Set(launches.filter(({ overlaps }) => overlaps).map(({ source }) => source));
  expect(overlapping).toContain('linear-stream.cu');
  for (const source of overlapping)
    expect(sourceText(source).match(/(?<!void )wait_for_previous\(\)/g), source).not.toBeNull();
});
