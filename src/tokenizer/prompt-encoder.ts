// Text → token ids with the Hugging Face tokenizer library, on whichever thread it is created.
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject } from '../util/json-file.ts';
import { HFTokenizer } from './hf-tokenizers.ts';
import { withLibraryFixes } from './library-fixes.ts';
import { SpecialTokenGuard } from './special-token-guard.ts';
import { extraSpecialTokens, namedSpecialTokens, type TokenizerFiles } from './tokenizer-files.ts';

/** An entry of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** What `SpecialTokenGuard` calls a marked text: only special tokens that no mark breaks apart take effect. */
export type TextForm = 'plain' | 'marked';

/** Encodes without the special tokens that a post-processor adds; `Tokenizer` adds them. */
export class PromptEncoder {
  readonly guard: SpecialTokenGuard;
  readonly addedTokens: readonly AddedToken[];
  readonly #plain: HFTokenizer;
  readonly #marked: HFTokenizer;
  /** Special ids that may only come from a special token in the text. */
  readonly #guardedIds: ReadonlySet<number>;

  /**
   * @param json tokenizer.json as parsed
   * @param specialTokens contents that are special whatever tokenizer.json says: those named in tokenizer_config.json
   * @throws NeedletailError `bad_checkpoint` if the library cannot read it.
   */
  constructor(json: JsonObject, specialTokens: readonly string[]) {
    const added = addedTokens(json, specialTokens);
    this.addedTokens = added.map(({ id, content, special }) => ({ id, content, special: special === true }));
    const special = this.addedTokens.filter((token) => token.special);
    this.guard = new SpecialTokenGuard(special.map((token) => token.content));
    this.#plain = createLibrary({ ...json, added_tokens: added });
    this.#marked = this.#createMarked(json, added);
    const unknownId = this.#plain.model.unk_token_id;
    this.#guardedIds = new Set(special.map((token) => token.id).filter((id) => id !== unknownId));
  }

  /** @throws NeedletailError `invalid_request` if a marked text cannot be written without special tokens. */
  encode(text: string, form: TextForm): Int32Array {
    if (form === 'plain') return Int32Array.from(this.#plain.encode(text, { add_special_tokens: false }).ids);
    const ids = this.#marked.encode(text, { add_special_tokens: false }).ids;
    const numSpecial = ids.filter((id) => this.#guardedIds.has(id)).length;
    if (numSpecial > this.guard.count(text)) throw unwritable();
    return Int32Array.from(ids);
  }

  /** The text's ids with the special tokens that the post-processor puts around them. */
  encodeWithSpecialTokens(text: string): readonly number[] {
    return this.#plain.encode(text, { add_special_tokens: true }).ids;
  }

  tokenOf(id: number): string | undefined {
    return this.#plain.id_to_token(id);
  }

  idOf(token: string): number | undefined {
    return this.#plain.token_to_id(token);
  }

  /** One more than the highest id. */
  get vocabSize(): number {
    return this.#plain.model.vocab.length;
  }

  /**
   * The same tokenizer (and the same vocabulary in memory) for marked texts. The library finds special tokens, then
   * normalizes and splits the texts between them; the marks must hold until then, so its normalizer and pre-tokenizer
   * are wrapped. Special tokens are looked for before normalization, where no normalizer can put one together.
   */
  #createMarked(json: JsonObject, added: readonly TokenEntry[]): HFTokenizer {
    const unnormalized = added.map((token) =>
      token.special === true ? { ...token, normalized: false } : token,
    );
    const emptyModel = { type: 'BPE', vocab: {}, merges: [] };
    const marked = createLibrary({ ...json, added_tokens: unnormalized, model: emptyModel });
    const { normalizer, pre_tokenizer: preTokenizer } = this.#plain;
    const { guard } = this;
    marked.model = this.#plain.model;
    marked.normalizer = (text) => guard.breakTokens(normalizer?.(guard.unmark(text)) ?? guard.unmark(text));
    marked.pre_tokenizer = (text, options) =>
      preTokenizer?.(guard.unmark(text), options) ?? [guard.unmark(text)];
    return marked;
  }
}

export function createPromptEncoder({ tokenizer, config }: TokenizerFiles): PromptEncoder {
  return new PromptEncoder(withLibraryFixes(tokenizer), [
    ...namedSpecialTokens(config).values(),
    ...extraSpecialTokens(config),
  ]);
}

function createLibrary(json: object): HFTokenizer {
  try {
    return new HFTokenizer(json, { clean_up_tokenization_spaces: false });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new NeedletailError(
      'bad_checkpoint',
      `tokenizer.json: the tokenizer cannot be built from it: ${reason}`,
      {
        cause: error,
      },
    );
  }
}

type TokenEntry = { readonly id: number; readonly content: string; readonly special?: unknown };

/** The entries of `added_tokens`, with the tokens named in tokenizer_config.json marked or added as special. */
function addedTokens(json: JsonObject, specialTokens: readonly string[]): TokenEntry[] {
  const { added_tokens: listed = [], model } = json;
  if (!Array.isArray(listed) || !listed.every(isAddedToken)) {
    throw new NeedletailError(
      'bad_checkpoint',
      'tokenizer.json: "added_tokens" must be a list of {id, content, …}',
    );
  }
  const special = new Set(specialTokens);
  const tokens = listed.map((token) => (special.has(token.content) ? { ...token, special: true } : token));
  const known = new Set(tokens.map((token) => token.content));
  const vocabulary = isJsonObject(model) && isJsonObject(model['vocab']) ? model['vocab'] : {};
  for (const content of special) {
    const id = vocabulary[content];
    if (!known.has(content) && typeof id === 'number') tokens.push({ id, content, special: true });
  }
  return tokens;
}

function isAddedToken(token: unknown): token is TokenEntry {
  return isJsonObject(token) && Number.isInteger(token['id']) && typeof token['content'] === 'string';
}

function unwritable(): NeedletailError {
  return new NeedletailError(
    'invalid_request',
    'the text spells a special token, and this tokenizer cannot write it as plain text; take it out of the text',
    { param: 'messages' },
  );
}
