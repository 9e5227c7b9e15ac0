// llama.cpp through node-llama-cpp at the lowest level that the package has: the addon's own context, where one
// `decodeBatch()` is one llama_decode on a libuv thread. The package is loaded from a scratch folder, not depended on.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { EngineUnderTest, Stepper, StepperShape } from './measures.ts';

/** What is used of the package; `_ctx` is internal to the one version that is installed. */
interface AddonContext {
  initBatch(size: number): void;
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logitIndexes: Uint32Array): void;
  decodeBatch(): Promise<void>;
  removeTokenCellsFromSequence(sequence: number, start: number, end: number): boolean;
  disposeSequence(sequence: number): void;
  getThreads(): number;
}
interface LlamaContext {
  readonly _ctx: AddonContext;
  dispose(): Promise<void>;
}
interface LlamaModel {
  createContext(options: object): Promise<LlamaContext>;
}
interface Llama {
  readonly systemInfo: string;
  loadModel(options: object): Promise<LlamaModel>;
  dispose(): Promise<void>;
}
interface NodeLlamaCpp {
  readonly getLlama: (options: object) => Promise<Llama>;
}

export interface PeerOptions {
  /** The folder that holds node_modules/node-llama-cpp. */
  readonly scratch: string;
  readonly gguf: string;
  readonly numThreads: number;
  readonly flashAttention: 'auto' | boolean;
}

export async function openLlamaCpp(options: PeerOptions): Promise<EngineUnderTest> {
  const entry = path.resolve(options.scratch, 'node_modules/node-llama-cpp/dist/index.js');
  const { getLlama } = (await import(pathToFileURL(entry).href)) as NodeLlamaCpp;
  const llama = await getLlama({
    gpu: false,
    build: 'never',
    maxThreads: options.numThreads,
    logLevel: 'error',
  });
  const model = await llama.loadModel({ modelPath: options.gguf });
  return {
    description: llama.systemInfo.trim(),
    open: (shape) => openContext(model, shape, options),
    close: () => llama.dispose(),
  };
}

async function openContext(
  model: LlamaModel,
  { numSequences, contextLen }: StepperShape,
  { numThreads, flashAttention }: PeerOptions,
): Promise<Stepper> {
  const context = await model.createContext({
    ...{ sequences: numSequences, contextSize: contextLen, batchSize: 512 },
    ...{ threads: numThreads, flashAttention },
  });
  const addon = context._ctx;
  if (addon.getThreads() !== numThreads) throw new Error(`llama.cpp runs ${addon.getThreads()} threads`);
  return {
    async pass(items) {
      addon.initBatch(items.reduce((sum, item) => sum + item.tokenIds.length, 0));
      for (const { sequence, position, tokenIds, wantsLogits } of items) {
        const logits = wantsLogits ? Uint32Array.of(tokenIds.length - 1) : new Uint32Array(0);
        addon.addToBatch(sequence, position, Uint32Array.from(tokenIds), logits);
      }
      await addon.decodeBatch();
    },
    rewind(sequence, length) {
      if (length === 0) addon.disposeSequence(sequence);
      else if (!addon.removeTokenCellsFromSequence(sequence, length, -1))
        throw new Error(`llama.cpp did not cut sequence ${sequence} back to ${length} tokens`);
    },
    close: () => context.dispose(),
  };
}
