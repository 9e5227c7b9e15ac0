// Binary frames over a pipe: a length, a type, and fields in a fixed order. Nothing is deserialised into code.

/** `[payload bytes: uint32][type: uint8][payload]`, little-endian. */
const HEADER_BYTES = 5;
/** Prompts of millions of tokens fit; a length beyond it means that the stream is out of step. */
const MAX_PAYLOAD_BYTES = 2 ** 28;

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
}

/** Writes one frame after the other into memory that it keeps. */
export class FrameWriter {
  #buffer = Buffer.allocUnsafe(1024);
  #offset = 0;

  begin(type: number): this {
    this.#offset = HEADER_BYTES;
    this.#buffer.writeUInt8(type, 4);
    return this;
  }

  /** The frame's bytes, as a copy. */
  end(): Buffer {
    this.#buffer.writeUInt32LE(this.#offset - HEADER_BYTES, 0);
    return Buffer.from(this.#buffer.subarray(0, this.#offset));
  }

  uint8(value: number): this {
    const offset = this.#reserve(1);
    this.#buffer.writeUInt8(value, offset);
    return this;
  }

  uint32(value: number): this {
    const offset = this.#reserve(4);
    this.#buffer.writeUInt32LE(value, offset);
    return this;
  }

  int32(value: number): this {
    const offset = this.#reserve(4);
    this.#buffer.writeInt32LE(value, offset);
    return this;
  }

  float32(value: number): this {
    const offset = this.#reserve(4);
    this.#buffer.writeFloatLE(value, offset);
    return this;
  }

  float64(value: number): this {
    const offset = this.#reserve(8);
    this.#buffer.writeDoubleLE(value, offset);
    return this;
  }

  int32s(values: ArrayLike<number>): this {
    this.uint32(values.length);
    for (let i = 0; i < values.length; i++) this.int32(values[i]);
    return this;
  }

  string(text: string): this {
    const numBytes = Buffer.byteLength(text);
    this.uint32(numBytes);
    const offset = this.#reserve(numBytes);
    this.#buffer.write(text, offset);
    return this;
  }

  json(value: unknown): this {
    return this.string(JSON.stringify(value));
  }

  /** Returns where `numBytes` bytes may be written. */
  #reserve(numBytes: number): number {
    const offset = this.#offset;
    this.#offset += numBytes;
    if (this.#offset > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(this.#offset, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, offset);
      this.#buffer = grown;
    }
    return offset;
  }
}

/** Reads a payload's fields in the order they were written. Reading past its end throws a RangeError. */
export class PayloadReader {
  readonly #payload: Buffer;
  #offset = 0;

  constructor(payload: Buffer) {
    this.#payload = payload;
  }

  uint8(): number {
    return this.#payload.readUInt8(this.#advance(1));
  }

  uint32(): number {
    return this.#payload.readUInt32LE(this.#advance(4));
  }

  int32(): number {
    return this.#payload.readInt32LE(this.#advance(4));
  }

  float32(): number {
    return this.#payload.readFloatLE(this.#advance(4));
  }

  float64(): number {
    return this.#payload.readDoubleLE(this.#advance(8));
  }

  int32s(): Int32Array {
    const length = this.uint32();
    const offset = this.#advance(length * 4);
    const values = new Int32Array(length);
    for (let i = 0; i < length; i++) values[i] = this.#payload.readInt32LE(offset + 4 * i);
    return values;
  }

  string(): string {
    const numBytes = this.uint32();
    const offset = this.#advance(numBytes);
    return this.#payload.toString('utf8', offset, offset + numBytes);
  }

  json(): unknown {
    return JSON.parse(this.string());
  }

  #advance(numBytes: number): number {
    const offset = this.#offset;
    if (offset + numBytes > this.#payload.length) throw new RangeError('a frame ends before its last field');
    this.#offset += numBytes;
    return offset;
  }
}

/** Cuts a byte stream, however it was split, back into frames. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #numBytes = 0;

  /** The frames that are complete now. Throws if the stream cannot be one of frames. */
  push(chunk: Buffer): Frame[] {
    this.#chunks.push(chunk);
    this.#numBytes += chunk.length;
    if (this.#numBytes < this.#needed()) return [];
    const frames: Frame[] = [];
    let rest = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
    for (let size = frameSize(rest); size <= rest.length; size = frameSize(rest)) {
      frames.push({ type: rest.readUInt8(4), payload: rest.subarray(HEADER_BYTES, size) });
      rest = rest.subarray(size);
    }
    this.#chunks = [rest];
    this.#numBytes = rest.length;
    return frames;
  }

  /** Bytes that the frame at the front takes, as far as that is known. */
  #needed(): number {
    const first = this.#chunks[0];
    return first.length < HEADER_BYTES ? HEADER_BYTES : frameSize(first);
  }
}

function frameSize(bytes: Buffer): number {
  if (bytes.length < HEADER_BYTES) return Infinity;
  const numBytes = bytes.readUInt32LE(0);
  if (numBytes > MAX_PAYLOAD_BYTES) throw new RangeError(`a frame claims ${numBytes} bytes`);
  return HEADER_BYTES + numBytes;
}
