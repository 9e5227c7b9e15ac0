// One measured number with what it is to be compared with, and the table of them.
import { formatNumber, formatTable } from '../report.ts';

export interface Figure {
  readonly row: string;
  readonly what: string;
  readonly value: number | null;
  readonly unit: string;
  /** What the measured roofs allow, in the same unit; null where there is no such bound. */
  readonly limit: number | null;
  /** A rival's measured or published figure, with its name. */
  readonly rival: string | null;
  /** Shares of the memory's and the matrix product's roof that the necessary bytes and operations took. */
  readonly mbu: number | null;
  readonly mfu: number | null;
  /** All else that was measured. */
  readonly detail: object;
}

/** A figure that no roof bounds. */
export function plainFigure(
  row: string,
  what: string,
  value: number | null,
  unit: string,
  detail: object,
): Figure {
  return { row, what, value, unit, limit: null, rival: null, mbu: null, mfu: null, detail };
}

export function formatFigures(figures: readonly Figure[]): string {
  const number = (value: number | null): string => (value === null ? '-' : formatNumber(value));
  const percent = (value: number | null): string => (value === null ? '-' : `${(100 * value).toFixed(0)} %`);
  return formatTable([
    ['row', 'figure', 'unit', 'limit', 'MBU', 'MFU', 'rival', 'what'],
    ...figures.map(({ row, what, value, unit, limit, rival, mbu, mfu }) => [
      ...[row, number(value), unit, number(limit), percent(mbu), percent(mfu), rival ?? '-', what],
    ]),
  ]);
}
