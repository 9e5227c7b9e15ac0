// A row-major matrix turned.

/** `[columns, rows]` of what is `[rows, columns]`. */
export function transposed<T extends Float32Array | Uint32Array | Uint8Array>(matrix: T, rows: number): T {
  const columns = matrix.length / rows;
  const turned = matrix.slice() as T;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      turned[column * rows + row] = matrix[row * columns + column];
    }
  }
  return turned;
}
