// The arithmetic that calibration spends its time on, as whoever computes it is asked for it.
import { roundColumns, type ColumnRounding } from './column-rounding.ts';
import { addProduct, type AddProduct } from './matrix-product.ts';
import { searchRanges, type RangeSearch } from './range-search.ts';

export interface CalibrationMath {
  readonly addProduct: AddProduct;
  readonly searchRanges: (search: RangeSearch) => Promise<void>;
  readonly roundColumns: (rounding: ColumnRounding) => Promise<void>;
}

/** By one thread, as it is defined. */
export const PLAIN_MATH: CalibrationMath = { addProduct, searchRanges, roundColumns };
