// Codes that lie several to a 32-bit word, the first in its lowest bits.

/** The numbers of rows of words; of the last word only as many as make `columns`. */
export function unpackWords(words: Uint32Array, bits: 4 | 8, columns: number): Uint8Array {
  const wordNumbers = 32 / bits;
  const rowWords = Math.ceil(columns / wordNumbers);
  const rows = words.length / rowWords;
  const numbers = new Uint8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const word = words[row * rowWords + Math.floor(column / wordNumbers)];
      numbers[row * columns + column] = (word >>> (bits * (column % wordNumbers))) & (2 ** bits - 1);
    }
  }
  return numbers;
}

/** Codes around 128 as ours around 0. */
export function toSigned(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte) => byte ^ 0x80);
}
