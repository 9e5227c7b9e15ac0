// A step in native memory: 32-bit words laid out as native/step-layout.h says, kept and written anew for each step.
import type { Plan } from '../../compiler/plan.ts';
import type { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { Address } from '../../ffi/native-memory.ts';
import { DeviceError } from '../device.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../step.ts';

const HEADER_WORDS = 63;
const MESSAGE_WORDS = 64;

type WordArray = Int32Array | Uint32Array | Float32Array;

/** Arrays of a `SamplingBatch` in the header's order, with their elements beside one per logit row. */
const SAMPLING_ARRAYS = [
  ['targetIds', 0],
  ['temperature', 0],
  ['topK', 0],
  ['topP', 0],
  ['minP', 0],
  ['repetitionPenalty', 0],
  ['presencePenalty', 0],
  ['frequencyPenalty', 0],
  ['seedLow', 0],
  ['seedHigh', 0],
  ['position', 0],
  ['numLogprobs', 0],
  ['biasOffsets', 1],
  ['biasIds', null],
  ['biasValues', null],
  ['historyOffsets', 1],
  ['historyIds', null],
  ['historyOutputCounts', null],
] as const satisfies readonly (readonly [keyof SamplingBatch, number | null])[];

/** Where a step's results are, in words. */
interface ResultPlaces {
  readonly tokenIds: number;
  readonly logprobs: number;
  readonly ranks: number;
  readonly topIds: number;
  readonly topLogprobs: number;
  readonly rowStatus: number;
  readonly message: number;
}

export class StepMemory {
  readonly #library: CpuLibrary;
  readonly #numGroups: number;
  #address: Address = 0;
  #words = new Int32Array(0);
  #bits = new Uint32Array(0);
  #floats = new Float32Array(0);
  #next = 0;
  #header: number[] = [];
  #results: ResultPlaces | null = null;
  #numRows = 0;
  #topCount = 0;

  constructor(library: CpuLibrary, plan: Plan) {
    this.#library = library;
    this.#numGroups = plan.kvCacheGroups.length;
  }

  get address(): Address {
    return this.#address;
  }

  /** Copy a step in. Throws a `DeviceError` if an array is shorter than the step's counts say. */
  write(step: StepBatch): void {
    const { sampling } = step;
    this.#numRows = step.logitRows.length;
    this.#topCount = sampling.numLogprobs.reduce((most, count) => Math.max(most, count), 0);
    this.#reserve(step);
    const numCopies = Math.floor(step.blockCopies.length / 3);
    this.#header = [step.numTokens, step.numSeqs, this.#numRows, numCopies, this.#topCount];
    this.#header.push(sampling.biasIds.length, sampling.historyIds.length, 0);
    this.#next = HEADER_WORDS;
    this.#writeTokens(step, numCopies);
    this.#writeSampling(sampling);
    this.#results = this.#placeResults();
    this.#writeGroups(step);
    this.#words.set(this.#header);
  }

  /** The results of the step that was written, copied out. */
  readResult(logits: Float32Array | null): StepResult {
    const at = this.#results!;
    const [rows, tops] = [this.#numRows, this.#numRows * this.#topCount];
    return {
      tokenIds: this.#words.slice(at.tokenIds, at.tokenIds + rows),
      logprobs: this.#floats.slice(at.logprobs, at.logprobs + rows),
      ranks: this.#words.slice(at.ranks, at.ranks + rows),
      topCount: this.#topCount,
      topIds: this.#words.slice(at.topIds, at.topIds + tops),
      topLogprobs: this.#floats.slice(at.topLogprobs, at.topLogprobs + tops),
      rowStatus: Uint8Array.from(this.#words.subarray(at.rowStatus, at.rowStatus + rows)),
      logits,
    };
  }

  /** Why the step was refused. */
  readMessage(): string {
    const { message } = this.#results!;
    const bytes = new Uint8Array(this.#words.buffer, message * 4, MESSAGE_WORDS * 4);
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.slice(0, end < 0 ? bytes.length : end));
  }

  free(): void {
    if (this.#address !== 0) this.#library.free(this.#address, this.#words.byteLength);
    this.#address = 0;
  }

  #writeTokens(step: StepBatch, numCopies: number): void {
    this.#append('tokenIds', step.tokenIds, step.numTokens);
    this.#append('positions', step.positions, step.numTokens);
    this.#append('cuSeqlensQ', step.cuSeqlensQ, step.numSeqs + 1);
    this.#append('contextLens', step.contextLens, step.numSeqs);
    this.#append('logitRows', step.logitRows, this.#numRows);
    this.#append('blockCopies', step.blockCopies, numCopies * 3);
  }

  #writeSampling(sampling: SamplingBatch): void {
    for (const [name, extra] of SAMPLING_ARRAYS) {
      const length = extra === null ? this.#listLength(name, sampling) : this.#numRows + extra;
      this.#append(name, sampling[name], length);
    }
  }

  #listLength(name: keyof SamplingBatch, sampling: SamplingBatch): number {
    return name.startsWith('bias') ? sampling.biasIds.length : sampling.historyIds.length;
  }

  #placeResults(): ResultPlaces {
    const [rows, tops] = [this.#numRows, this.#numRows * this.#topCount];
    const places = {
      tokenIds: this.#place(rows),
      logprobs: this.#place(rows),
      ranks: this.#place(rows),
      topIds: this.#place(tops),
      topLogprobs: this.#place(tops),
      rowStatus: this.#place(rows),
      message: this.#place(MESSAGE_WORDS),
    };
    this.#words[places.message] = 0;
    return places;
  }

  #writeGroups(step: StepBatch): void {
    if (step.groups.length < this.#numGroups) {
      throw new DeviceError(`the step has ${step.groups.length} cache groups, the plan ${this.#numGroups}`);
    }
    for (const { slotMapping, blockTables, maxBlocksPerSeq } of step.groups.slice(0, this.#numGroups)) {
      this.#append('slotMapping', slotMapping, step.numTokens);
      this.#append('blockTables', blockTables, step.numSeqs * maxBlocksPerSeq);
      this.#header.push(maxBlocksPerSeq);
    }
  }

  /** Copy the first `length` elements behind what is there, and their place into the header. */
  #append(name: string, array: WordArray, length: number): void {
    if (array.length < length || length < 0) {
      throw new DeviceError(`the step's ${name} has ${array.length} elements instead of ${length}`);
    }
    const place = this.#place(length);
    const elements = array.length === length ? array : array.subarray(0, length);
    if (elements instanceof Float32Array) this.#floats.set(elements, place);
    else if (elements instanceof Uint32Array) this.#bits.set(elements, place);
    else this.#words.set(elements, place);
  }

  #place(length: number): number {
    const place = this.#next;
    this.#next += length;
    this.#header.push(place);
    return place;
  }

  /** Make room for a step; rarely more than once. */
  #reserve(step: StepBatch): void {
    const groupWords = step.groups.reduce(
      (sum, g) => sum + step.numTokens + step.numSeqs * g.maxBlocksPerSeq,
      0,
    );
    const { biasIds, historyIds } = step.sampling;
    const rowWords = this.#numRows * (24 + 2 * this.#topCount) + 2 * biasIds.length + 2 * historyIds.length;
    const tokenWords = 2 * step.numTokens + 2 * step.numSeqs + 1 + step.blockCopies.length;
    const wanted = HEADER_WORDS + MESSAGE_WORDS + groupWords + rowWords + tokenWords;
    if (wanted <= this.#words.length) return;
    const bytes = Math.max(65536, wanted * 8);
    this.free();
    this.#address = this.#library.allocate(bytes);
    const buffer = this.#library.view(this.#address, bytes);
    this.#words = new Int32Array(buffer);
    this.#bits = new Uint32Array(buffer);
    this.#floats = new Float32Array(buffer);
  }
}
