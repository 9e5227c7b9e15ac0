// A checkpoint's tokenizer: text to token ids and back, and chats to prompts.
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject } from '../util/json-file.ts';
import { type ChatMessage, ChatTemplate, type RenderOptions } from './chat-template.ts';
import { type DetokenizerOptions, IncrementalDetokenizer } from './incremental-detokenizer.ts';
import {
  DEFAULT_ENCODE_LIMITS,
  type EncodeLimits,
  isLongText,
  LongTextEncoder,
} from './long-text-encoder.ts';
import { createPromptEncoder, type PromptEncoder, type TextForm } from './prompt-encoder.ts';
import { maxShrinkage, stripsSpaces } from './shrinkage.ts';
import { TokenTable } from './token-table.ts';
import { namedSpecialTokens, readTokenizerFiles, type TokenizerFiles } from './tokenizer-files.ts';

export interface EncodeOptions {
  /** Put the model's special tokens around the text, as its post-processor does (default true); BOS never twice. */
  readonly addSpecialTokens?: boolean;
  /** Read `<|eos|>` in the text as these characters, not as the special token (default false). */
  readonly specialTokensAsText?: boolean;
}

export interface LengthOptions {
  /** Refuse a text that is certain to have more tokens before it is tokenized: what no context holds costs nothing. */
  readonly maxNumTokens?: number;
}

/** What a chat template is given beside the messages. */
export interface ChatOptions extends Omit<RenderOptions, 'specialTokens'>, LengthOptions {
  /** Instead of the checkpoint's own template. */
  readonly template?: ChatTemplate;
}

export interface EncodedChat {
  readonly text: string;
  readonly tokenIds: Int32Array;
}

/** Ids that the post-processor puts before and after a text. */
interface Surroundings {
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
}

export class Tokenizer {
  /** Special tokens by role: `bos_token` → `<s>`. */
  readonly specialTokens: ReadonlyMap<string, string>;
  /** One more than the highest token id; a model's vocabulary may be padded beyond it. */
  readonly vocabSize: number;
  readonly #encoder: PromptEncoder;
  readonly #longTexts: LongTextEncoder;
  readonly #limits: EncodeLimits;
  readonly #table: TokenTable;
  readonly #surroundings: Surroundings;
  readonly #templateSources: ReadonlyMap<string, string>;
  readonly #templates = new Map<string, ChatTemplate>();
  readonly #maxShrinkage: number;
  readonly #stripsSpaces: boolean;
  #maxTokenLength: number | null = null;

  private constructor(directory: string, files: TokenizerFiles, limits: EncodeLimits) {
    this.#encoder = createPromptEncoder(files);
    this.#longTexts = new LongTextEncoder(directory, limits);
    this.#maxShrinkage = maxShrinkage(files.tokenizer);
    this.#stripsSpaces = stripsSpaces(files.tokenizer);
    this.#limits = splitsWords(files) ? limits : { ...limits, longTextLength: limits.longUnsplitLength };
    this.specialTokens = namedSpecialTokens(files.config);
    this.vocabSize = this.#encoder.vocabSize;
    this.#table = createTable(this.#encoder, files);
    this.#surroundings = findSurroundings(this.#encoder, files, this.specialTokens);
    this.#templateSources = files.templates;
  }

  /**
   * @param directory folder with tokenizer.json and, if there are any, tokenizer_config.json and chat templates
   * @throws NeedletailError `bad_checkpoint` naming the file that is missing or damaged, `unsupported_model` for a kind
   * of tokenizer whose output cannot be streamed.
   */
  static async load(directory: string, limits: Partial<EncodeLimits> = {}): Promise<Tokenizer> {
    const files = await readTokenizerFiles(directory);
    return new Tokenizer(directory, files, { ...DEFAULT_ENCODE_LIMITS, ...limits });
  }

  get bosToken(): string | null {
    return this.specialTokens.get('bos_token') ?? null;
  }

  get eosToken(): string | null {
    return this.specialTokens.get('eos_token') ?? null;
  }

  get bosTokenId(): number | null {
    return this.#idOf(this.bosToken);
  }

  /** The end token that the tokenizer names; generation_config.json may name others and has the last word. */
  get eosTokenIds(): readonly number[] {
    const id = this.#idOf(this.eosToken);
    return id === null ? [] : [id];
  }

  /** Contents of all special tokens, as `skipSpecialTokens` leaves them out. */
  get allSpecialTokens(): readonly string[] {
    return this.#encoder.addedTokens.filter((token) => token.special).map((token) => token.content);
  }

  /** The token as the vocabulary spells it (`Ġthe`), or null for an id that none has. */
  tokenOf(id: number): string | null {
    return this.#encoder.tokenOf(id) ?? null;
  }

  /** The UTF-8 bytes that a token stands for: often no whole character. Empty for an id that none has. */
  bytesOf(id: number): Uint8Array {
    const piece = this.#table.piece(id);
    return typeof piece === 'string' ? Buffer.from(piece) : piece;
  }

  /** The text has at least so many tokens: as if every token were the longest of the vocabulary. */
  minNumTokens(text: string): number {
    this.#maxTokenLength ??= longestToken(this.#encoder);
    const counted = this.#stripsSpaces ? text.replace(/\s+/g, '') : text;
    return Math.ceil(counted.length / (this.#maxTokenLength * this.#maxShrinkage));
  }

  /** Blocks the event loop: for texts that are known to be short. Requests go through `encodeLong`. */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    this.#checkLength(text);
    const [marked, form] = this.#formOf(text, options);
    return this.#surround(this.#encoder.encode(marked, form), options);
  }

  /**
   * The same ids as `encode`; a text that takes long is encoded in a worker thread.
   * @throws NeedletailError `invalid_request` if the text is too long or takes too much time or memory,
   * `context_length_exceeded` if it is certain to have more than `maxNumTokens`.
   */
  async encodeLong(text: string, options: EncodeOptions & LengthOptions = {}): Promise<Int32Array> {
    this.#checkNumTokens(text, options);
    const [marked, form] = this.#formOf(text, options);
    return this.#surround(await this.#encodeAnywhere(marked, form), options);
  }

  /** The text of `ids` as a whole: a space that a SentencePiece vocabulary puts before the first word is cut off. */
  decode(ids: ArrayLike<number>, options: { readonly skipSpecialTokens: boolean }): string {
    const detokenizer = this.createDetokenizer({ ...options, isStart: true });
    let text = '';
    for (let i = 0; i < ids.length; i++) text += detokenizer.push(ids[i]);
    return text + detokenizer.flush();
  }

  createDetokenizer(options: DetokenizerOptions): IncrementalDetokenizer {
    return new IncrementalDetokenizer(this.#table, options);
  }

  get hasChatTemplate(): boolean {
    return this.#templateSources.size > 0;
  }

  /**
   * The checkpoint's template: the one named `tool_use`, if there is one, for chats with tools.
   * @throws NeedletailError `unprocessable` if there is none or it is no valid Jinja.
   */
  chatTemplate(hasTools = false): ChatTemplate {
    const name = hasTools && this.#templateSources.has('tool_use') ? 'tool_use' : 'default';
    const source = this.#templateSources.get(name);
    if (source === undefined) throw noTemplate();
    const template = this.#templates.get(name) ?? new ChatTemplate(source);
    this.#templates.set(name, template);
    return template;
  }

  /**
   * Renders and encodes a chat. The ids are those of Hugging Face's `apply_chat_template`, except that special tokens
   * take effect only where the template wrote them: in the texts of messages, tools, documents and kwargs they stay
   * text (`special-token-guard.ts`). Roles are texts too, but a template may build a special token around one, so the
   * caller lets only known roles through.
   */
  async encodeChat(messages: readonly ChatMessage[], options: ChatOptions): Promise<EncodedChat> {
    const { guard } = this.#encoder;
    const { tools, documents, kwargs } = options;
    const input = { messages, tools, documents, kwargs };
    const safe = guard.protect(input);
    const rendered = this.#render(safe.messages, { ...options, ...safe });
    const text = safe === input ? rendered : guard.unmark(rendered);
    this.#checkNumTokens(text, options);
    return { text, tokenIds: await this.#encodeAnywhere(rendered, safe === input ? 'plain' : 'marked') };
  }

  /** The chat as text, special tokens in messages and all. */
  renderChat(messages: readonly ChatMessage[], options: ChatOptions): string {
    return this.#render(messages, options);
  }

  /** Ends the worker thread; long texts that wait for it are refused. */
  close(): Promise<void> {
    return this.#longTexts.close();
  }

  #render(messages: readonly ChatMessage[], options: ChatOptions): string {
    const template = options.template ?? this.chatTemplate((options.tools?.length ?? 0) > 0);
    return template.render(messages, { ...options, specialTokens: this.specialTokens });
  }

  async #encodeAnywhere(text: string, form: TextForm): Promise<Int32Array> {
    this.#checkLength(text);
    if (isLongText(text, this.#limits)) return this.#longTexts.encode({ text, form });
    return this.#encoder.encode(text, form);
  }

  #formOf(text: string, { specialTokensAsText = false }: EncodeOptions): [string, TextForm] {
    return specialTokensAsText ? [this.#encoder.guard.mark(text), 'marked'] : [text, 'plain'];
  }

  #surround(ids: Int32Array, { addSpecialTokens = true }: EncodeOptions): Int32Array {
    const { prefix, suffix } = this.#surroundings;
    if (!addSpecialTokens || prefix.length + suffix.length === 0) return ids;
    const hasPrefix = prefix.length > 0 && prefix.every((id, i) => ids[i] === id);
    return Int32Array.from([...(hasPrefix ? [] : prefix), ...ids, ...suffix]);
  }

  #checkLength(text: string): void {
    const { maxTextLength } = this.#limits;
    if (text.length <= maxTextLength) return;
    const message = `the prompt has ${text.length} characters, but at most ${maxTextLength} are allowed; shorten it`;
    throw new NeedletailError('invalid_request', message, { param: 'prompt' });
  }

  #checkNumTokens(text: string, { maxNumTokens = Infinity }: LengthOptions): void {
    const numTokens = maxNumTokens === Infinity ? 0 : this.minNumTokens(text);
    if (numTokens <= maxNumTokens) return;
    const message = `the context holds ${maxNumTokens} tokens, but the prompt has at least ${numTokens}; shorten it`;
    throw new NeedletailError('context_length_exceeded', message, { param: 'prompt' });
  }

  #idOf(token: string | null): number | null {
    return token === null ? null : (this.#encoder.idOf(token) ?? null);
  }
}

/** In characters as the vocabulary spells them: byte-level spelling is never shorter than the text. */
function longestToken(encoder: PromptEncoder): number {
  let longest = 1;
  for (let id = 0; id < encoder.vocabSize; id++)
    longest = Math.max(longest, encoder.tokenOf(id)?.length ?? 0);
  return longest;
}

function createTable(encoder: PromptEncoder, { tokenizer }: TokenizerFiles): TokenTable {
  return new TokenTable({
    decoder: tokenizer['decoder'],
    size: encoder.vocabSize,
    tokenOf: (id) => encoder.tokenOf(id),
    addedIds: new Set(encoder.addedTokens.map((token) => token.id)),
    specialIds: new Set(encoder.addedTokens.filter((token) => token.special).map((token) => token.id)),
  });
}

/** Without a pre-tokenizer a text is one word to the vocabulary, which costs several times as much. */
function splitsWords({ tokenizer }: TokenizerFiles): boolean {
  const preTokenizer = tokenizer['pre_tokenizer'];
  if (!isJsonObject(preTokenizer)) return false;
  return preTokenizer['type'] !== 'Metaspace' || preTokenizer['split'] !== false;
}

const PROBE = 'a';

/** `add_bos_token` and `add_eos_token` in tokenizer_config.json, where they stand, overrule the post-processor. */
function findSurroundings(
  encoder: PromptEncoder,
  { config }: TokenizerFiles,
  specialTokens: ReadonlyMap<string, string>,
): Surroundings {
  const bare = encoder.encode(PROBE, 'plain');
  const whole = encoder.encodeWithSpecialTokens(PROBE);
  const start =
    bare.length === 0 ? whole.length : whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id));
  const found = { prefix: whole.slice(0, start), suffix: whole.slice(start + bare.length) };
  const idOf = (role: string) => encoder.idOf(specialTokens.get(role) ?? '');
  return {
    prefix: withToken(found.prefix, idOf('bos_token'), config['add_bos_token']),
    suffix: withToken(found.suffix, idOf('eos_token'), config['add_eos_token']),
  };
}

function withToken(ids: readonly number[], id: number | undefined, wanted: unknown): readonly number[] {
  if (id === undefined || typeof wanted !== 'boolean' || ids.includes(id) === wanted) return ids;
  return wanted ? [id] : ids.filter((other) => other !== id);
}

function noTemplate(): NeedletailError {
  return new NeedletailError(
    'unprocessable',
    'this model has no chat template; use the completions endpoint or start with --chat-template FILE',
    { param: 'messages' },
  );
}
