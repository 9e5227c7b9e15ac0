import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { HFConfig } from './model-definition.ts';
import { findPreset, presetNames } from './presets.ts';
import { findModel } from './registry.ts';

/** As their publishers count them. */
const NUM_PARAMETERS: Readonly<Record<string, number>> = {
  'llama-2-7b': 6_738_415_616,
  'llama-2-13b': 13_015_864_320,
  'llama-2-70b': 68_976_648_192,
  'llama-3-8b': 8_030_261_248,
  'llama-3-70b': 70_553_706_496,
  'llama-3.1-8b': 8_030_261_248,
  'llama-3.1-70b': 70_553_706_496,
  'llama-3.2-1b': 1_235_814_400,
  'llama-3.2-3b': 3_212_749_824,
  'tinyllama-1.1b': 1_100_048_384,
  'mistral-7b': 7_241_732_096,
  'mixtral-8x7b': 46_702_792_704,
  'qwen2.5-7b': 7_615_616_512,
  'gpt-j-6b': 6_050_882_784,
  'falcon-40b': 41_303_293_952,
  'falcon-180b': 178_557_088_768,
  'mpt-30b': 29_957_200_896,
  'bloom-176b': 176_247_271_424,
  'gemma-7b': 8_537_680_896,
  gpt2: 124_439_808,
  'gpt2-medium': 354_823_168,
  'gpt2-large': 774_030_080,
  'gpt2-xl': 1_557_611_200,
  'gpt3-175b': 174_604_259_328,
  'llama-tales-8m': 7_868_672,
};

describe('presets', () => {
  test.each(presetNames().map((name) => [name]))('%s has the parameters that it is known for', (name) => {
    const { config } = findPreset(name)!;
    expect(findModel(config).facts(config).numParameters).toBe(NUM_PARAMETERS[name]);
  });

  test('the shipped model’s preset computes what its checkpoint does', () => {
    const file = new URL('../../models/llama-tales-8m/config.json', import.meta.url);
    const shipped = JSON.parse(readFileSync(file, 'utf8')) as HFConfig;
    const { config } = findPreset('llama-tales-8m')!;
    const graphOf = (source: HFConfig) =>
      findModel(source).buildGraph(source, { kvDType: 'float32', maxModelLen: 1024 });
    expect(graphOf(config)).toEqual(graphOf(shipped));
  });

  test('names are found in any case, and nothing else is', () => {
    expect(findPreset('Llama-3.1-8B')?.name).toBe('llama-3.1-8b');
    for (const name of ['llama', '', 'toString', '__proto__']) expect(findPreset(name)).toBeNull();
  });
});
