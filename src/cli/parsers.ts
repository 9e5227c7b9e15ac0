// Values of flags, checked where they come in; commander names the flag in front of these messages.
import { InvalidArgumentError } from 'commander';

/** A whole number in [min, max]. `1_000_000` is fine too. */
export function wholeNumber(min: number, max = 2 ** 31 - 1): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d[\d_]*$/.test(text) ? Number(text.replaceAll('_', '')) : NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
  };
}

/** A number in [min, max], or in (min, max] if `above`. */
export function decimalNumber(min: number, max: number, bound?: 'above'): (text: string) => number {
  return (text) => {
    const value = text.trim() === '' ? NaN : Number(text);
    if ((bound === 'above' ? value > min : value >= min) && value <= max) return value;
    const from = bound === 'above' ? `above ${min}` : `from ${min}`;
    throw new InvalidArgumentError(`Give a number ${from}${max === Infinity ? '' : ` to ${max}`}.`);
  };
}

const BYTE_UNITS: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4 };

/** Bytes: `2147483648`, `2GiB`, `2G` (both 2 × 1024³) or `2GB` (2 × 1000³). */
export function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?$/i.exec(text.trim());
  if (!match) throw new InvalidArgumentError('Give bytes, such as 512M, 2GiB or 2147483648.');
  const [, digits, unit, suffix = ''] = match as unknown as [string, string, string, string?];
  const base = unit !== '' && suffix.toLowerCase() === 'b' ? 1000 : 1024;
  return Math.floor(Number(digits) * base ** BYTE_UNITS[unit.toLowerCase()]);
}

/** A share, as `1%` or `0.01`. */
export function share(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text.trim());
  if (!match) throw new InvalidArgumentError('Give a share, such as 1% or 0.01.');
  return Number(match[1]) / (match[2] === '%' ? 100 : 1);
}
