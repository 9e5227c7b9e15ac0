// The parts of @huggingface/tokenizers that we use, typed: its own declarations do not resolve under Node's module rules.
import * as library from '@huggingface/tokenizers';

export interface HFTokenizer {
  normalizer: ((text: string) => string) | null;
  pre_tokenizer: ((text: string, options: object) => string[]) | null;
  model: { readonly vocab: readonly string[]; readonly unk_token_id?: number };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean }): string;
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
}

interface HFTokenizersLibrary {
  /** @param json tokenizer.json as parsed @param config fields of tokenizer_config.json */
  readonly Tokenizer: new (json: object, config: { clean_up_tokenization_spaces: boolean }) => HFTokenizer;
}

export const { Tokenizer: HFTokenizer } = library as unknown as HFTokenizersLibrary;
