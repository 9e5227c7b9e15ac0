// `needletail doctor`: what of this machine can be used, and what is missing, with what to do about it.
import type { Command } from 'commander';

export function registerDoctor(program: Command): void {
  program
    .command('doctor')
    .description('show which devices can be used here, and what is missing for the others')
    .action(async () => {
      const { runDoctor } = await import('./run-doctor.ts');
      await runDoctor();
    });
}
