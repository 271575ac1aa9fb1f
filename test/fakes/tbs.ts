/** tbs.dll as a test wants it. */
import type { LoadTbs } from '../../src/tpm/transports/tbs.ts';
import type { TbsLibrary } from '../../src/tpm/transports/tbs-library.ts';

export class FakeTbs implements TbsLibrary {
  /** What createContext gives. */
  createResult = 0;
  /** What becomes of each command; resolves with TBS_RESULT and response. */
  answer: (command: Buffer) => Promise<{ result: number; response: Buffer }>;
  readonly calls: string[] = [];
  readonly #context = {};

  constructor(answer: (command: Buffer) => Promise<{ result: number; response: Buffer }>) {
    this.answer = answer;
  }

  get load(): LoadTbs {
    return () => Promise.resolve(this);
  }

  createContext(): { result: number; context: unknown } {
    this.calls.push('create');
    return { result: this.createResult, context: this.#context };
  }

  submitCommand(context: unknown, command: Buffer): Promise<{ result: number; response: Buffer }> {
    this.calls.push(context === this.#context ? 'submit' : 'submit with a strange context');
    return this.answer(command);
  }

  cancelCommands(): number {
    this.calls.push('cancel');
    return 0;
  }

  closeContext(): number {
    this.calls.push('close');
    return 0;
  }
}
