// A language model for programs: text or chats in, text out. The engine runs beside it, usually in a process of its own.
import type { EngineClient } from '../engine/protocol.ts';
import type { LengthOptions, Tokenizer } from '../tokenizer/tokenizer.ts';
import { NeedletailError } from '../util/errors.ts';
import { type ChatMessage, type ChatPromptOptions, ChatRenderer } from './chat.ts';
import type { GenerationChunk } from './chunk.ts';
import { isTokenIds } from './fields.ts';
import { Generation } from './generation.ts';
import { type GenerateParams, parseGenerateParams } from './generate-params.ts';
import { type LoadOptions, loadParts } from './load.ts';
import { outputStream } from './output-stream.ts';
import type { LLMParts } from './parts.ts';
import {
  checkTokenIds,
  type GenerationDefaults,
  type GenerationJob,
  type ResolvedPrompt,
  resolveJob,
} from './resolve.ts';
import { seedSequence } from './seeds.ts';

/** A text, or the token ids that it would become. */
export type Prompt = string | { readonly promptTokenIds: Int32Array | readonly number[] };

export interface RunOptions {
  /** Cancels the request: the loop or promise then fails with `aborted`. */
  readonly signal?: AbortSignal;
}

export class LLM implements AsyncDisposable {
  readonly engine: EngineClient;
  readonly tokenizer: Tokenizer | null;
  readonly defaults: GenerationDefaults;
  readonly #parts: LLMParts;
  readonly #chats: ChatRenderer | null;
  readonly #nextSeed: () => bigint;
  #numRequests = 0;

  constructor(parts: LLMParts) {
    this.engine = parts.engine;
    this.tokenizer = parts.tokenizer;
    this.defaults = parts.defaults;
    this.#parts = parts;
    this.#chats = parts.tokenizer && new ChatRenderer(parts.tokenizer, parts.chatTemplate);
    this.#nextSeed = seedSequence(parts.seed);
  }

  /**
   * Loads a model and starts its engine.
   * @param model checkpoint folder, plan directory, hub id `org/name[@revision]`, or a preset with `loadFormat: 'dummy'`
   * @throws NeedletailError `model_not_found`, `unsupported_model`, `bad_checkpoint`, `out_of_memory`, …
   */
  static async load(model: string, options: LoadOptions = {}): Promise<LLM> {
    return new LLM(await loadParts(model, options));
  }

  /** @throws NeedletailError (from the loop or `collect`) where a parameter is wrong or the request fails. */
  generate(prompt: Prompt, params: GenerateParams = {}, options: RunOptions = {}): Generation {
    return this.#generation(() => this.prepare(prompt, parseGenerateParams(params)), options);
  }

  /** Like `generate` for a chat; `chatOptions` say how the template is rendered. */
  chat(
    messages: readonly ChatMessage[],
    params: GenerateParams = {},
    options: RunOptions & ChatPromptOptions = {},
  ): Generation {
    return this.#generation(() => this.prepareChat(messages, parseGenerateParams(params), options), options);
  }

  /** Tokenizes and checks a request without running it; `params` must be parsed. */
  async prepare(prompt: Prompt, params: GenerateParams): Promise<GenerationJob> {
    return this.#resolve(await this.#resolvePrompt(prompt, params), params);
  }

  async prepareChat(
    messages: readonly ChatMessage[],
    params: GenerateParams,
    chatOptions: ChatPromptOptions,
  ): Promise<GenerationJob> {
    const maxNumTokens = this.engine.info.maxModelLen;
    return this.#resolve(await this.#encodeChat(messages, { ...chatOptions, maxNumTokens }), params);
  }

  /** Runs a prepared request. */
  run(job: GenerationJob, signal?: AbortSignal): AsyncGenerator<GenerationChunk, void, void> {
    return outputStream(this.engine, this.tokenizer, job, signal);
  }

  /** A chat as the model sees it, even if it is longer than the context. */
  encodeChat(messages: readonly ChatMessage[], options: ChatPromptOptions): Promise<ResolvedPrompt> {
    return this.#encodeChat(messages, options);
  }

  /** @throws NeedletailError `invalid_request` naming the first id that the model does not have. */
  checkTokenIds(ids: ArrayLike<number>, param: string): void {
    checkTokenIds(ids, this.engine.info.vocabSize, param);
  }

  /** Ends the engine; requests in flight fail. */
  async close(): Promise<void> {
    await Promise.all([this.engine.close(), this.tokenizer?.close()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #generation(prepare: () => Promise<GenerationJob>, { signal }: RunOptions): Generation {
    return new Generation(prepare, (job) => this.run(job, signal));
  }

  async #encodeChat(
    messages: readonly ChatMessage[],
    options: ChatPromptOptions & LengthOptions,
  ): Promise<ResolvedPrompt> {
    if (this.#chats === null) throw noTokenizer('chats', 'messages');
    return this.#chats.encode(messages, options);
  }

  async #resolvePrompt(prompt: Prompt, params: GenerateParams): Promise<ResolvedPrompt> {
    if (typeof prompt !== 'string') return this.#tokenPrompt(toTokenIds(prompt.promptTokenIds), params);
    if (this.tokenizer === null) throw noTokenizer('text prompts', 'prompt');
    const addSpecialTokens = params.addSpecialTokens ?? true;
    const maxNumTokens = this.engine.info.maxModelLen;
    const tokenIds = await this.tokenizer.encodeLong(prompt, { addSpecialTokens, maxNumTokens });
    return { tokenIds, text: prompt };
  }

  #tokenPrompt(tokenIds: Int32Array, params: GenerateParams): ResolvedPrompt {
    const isTextWanted = params.echo === true && this.tokenizer !== null;
    const skipSpecialTokens = params.skipSpecialTokens ?? true;
    return { tokenIds, text: isTextWanted ? this.tokenizer.decode(tokenIds, { skipSpecialTokens }) : '' };
  }

  #resolve(prompt: ResolvedPrompt, params: GenerateParams): GenerationJob {
    if (this.tokenizer === null && (params.stop?.length ?? 0) > 0) throw noTokenizer('stop strings', 'stop');
    const limits = { info: this.engine.info, ...this.#parts };
    const requestId = `request-${this.#numRequests++}`;
    return resolveJob(requestId, prompt, params, limits, this.#nextSeed);
  }
}

function toTokenIds(ids: Int32Array | readonly number[]): Int32Array {
  if (ids instanceof Int32Array) return ids;
  if (isTokenIds(ids)) return Int32Array.from(ids);
  throw new NeedletailError('invalid_request', 'token ids must be integers from 0', { param: 'prompt' });
}

function noTokenizer(what: string, param: string): NeedletailError {
  const message = `${what} need a tokenizer, and this engine was started without one: send token ids`;
  return new NeedletailError('unprocessable', message, { param });
}
