// The distinct tokens of a sequence and how often its output holds them: what penalties look at.
import { Int32List } from './int32-list.ts';

export class TokenHistory {
  readonly ids = new Int32List();
  /** Occurrences in the output; 0 for a token of the prompt alone. */
  readonly outputCounts = new Int32List();
  readonly #indexOf = new Map<number, number>();

  /** `output` false: the token stands in the prompt. */
  add(tokenId: number, output: boolean): void {
    let index = this.#indexOf.get(tokenId);
    if (index === undefined) {
      index = this.ids.length;
      this.#indexOf.set(tokenId, index);
      this.ids.push(tokenId);
      this.outputCounts.push(0);
    }
    if (output) this.outputCounts.set(index, this.outputCounts.at(index) + 1);
  }
}
