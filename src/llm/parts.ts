// What an LLM is made of.
import type { EngineClient } from '../engine/protocol.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { GenerationDefaults } from './resolve.ts';

/** `LLM.load` finds all of it. */
export interface LLMParts {
  readonly engine: EngineClient;
  /** null: prompts are token ids and text stays empty. */
  readonly tokenizer: Tokenizer | null;
  /** Jinja text instead of the checkpoint's chat template. */
  readonly chatTemplate: string | null;
  readonly defaults: GenerationDefaults;
  /** Whether the engine's scheduling heeds priorities. */
  readonly hasPriorities: boolean;
  /** For requests that name none. */
  readonly seed: number;
}
