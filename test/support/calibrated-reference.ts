// A reference checkpoint of codes, as a calibrated recipe makes it of the floats and of a text of made-up tokens.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import { DEFAULT_ENGINE_CONFIG } from '../../src/engine/config.ts';
import { findSubject, type ModelSubject } from '../../src/engine/subject.ts';
import { calibrateModel } from '../../src/eval/calibrate-model.ts';
import type { CalibratedRecipe } from '../../src/quantization/calibrate.ts';
import type { TensorCatalog, TensorSource } from '../../src/tensor/tensor-source.ts';
import { writeReference, type ReferenceCheckpoint } from './reference-checkpoint.ts';

const NUM_TOKENS = 256;

export interface CalibratedReference {
  readonly catalog: TensorCatalog;
  readonly source: TensorSource;
}

const known = new Map<string, Promise<CalibratedReference>>();
/** Devices read what stays as it was from the checkpoint itself when they load it. */
const directories: string[] = [];
afterAll(() => directories.forEach((directory) => rmSync(directory, { recursive: true })));

/** Made once in a process: it takes seconds. */
export function calibrateReference(
  reference: ReferenceCheckpoint,
  recipe: CalibratedRecipe,
  groupSize: number | null,
  device: 'cpu' | 'cuda' = 'cpu',
): Promise<CalibratedReference> {
  const key = `${reference.name} ${recipe.name} ${device}`;
  const made = known.get(key) ?? calibrate(reference, recipe, groupSize, device);
  known.set(key, made);
  return made;
}

async function calibrate(
  { name, config: hfConfig }: ReferenceCheckpoint,
  recipe: CalibratedRecipe,
  groupSize: number | null,
  device: 'cpu' | 'cuda',
): Promise<CalibratedReference> {
  const directory = mkdtempSync(path.join(tmpdir(), 'needletail-calibrated-'));
  directories.push(directory);
  await writeReference(name, directory);
  writeFileSync(path.join(directory, 'config.json'), JSON.stringify(hfConfig));
  const ids = Array.from({ length: NUM_TOKENS }, (_, i) => (i * i * 31 + (i >> 9) * 77 + 7 * i) % 512);
  const file = path.join(directory, 'ids.json');
  writeFileSync(file, JSON.stringify(ids));
  const config = {
    ...DEFAULT_ENGINE_CONFIG,
    model: directory,
    device,
    // Others calibrate beside it.
    numThreads: 2,
    maxModelLen: 128,
    maxNumSeqs: 2,
    maxNumBatchedTokens: 64,
    quantization: recipe.name,
    quantizationGroupSize: groupSize,
  } as const;
  const subject = (await findSubject(config)) as ModelSubject;
  return await calibrateModel(subject, config, { recipe, file, numTokens: NUM_TOKENS });
}
