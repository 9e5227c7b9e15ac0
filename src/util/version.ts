// needletail's own version, for plans, `/version` and `--version`; a test keeps it equal to package.json.
export const VERSION = '0.1.0';
