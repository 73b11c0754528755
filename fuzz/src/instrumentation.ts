/**
 * Counters for coverage, put into a source text: one at the start of every function, branch, loop body, case and right side
 * of `&&`, `||` and `??`.
 *
 * Guarantees that the text does the same as before, apart from calling `__hit(N)`. Also collects the texts and numbers that
 * the source mentions: what a parser compares with is what a random input does not guess.
 * Works on the text by the compiler's syntax tree; types, tests and declarations are left alone.
 */
import ts from 'typescript';

export type Instrumented = { readonly text: string; readonly words: readonly string[]; readonly counters: number };

const WORD_MAX = 48;

/** `first` is the number of the first counter. */
export function instrument(text: string, file: string, first: number): Instrumented {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.ES2023, true);
  const opening = new Map<number, string>();
  const closing = new Map<number, string>();
  const words = new Set<string>();
  let counter = first;

  const hit = (): string => `__hit(${counter++})`;
  const open = (at: number, what: string): void => void opening.set(at, (opening.get(at) ?? '') + what);
  const close = (at: number, what: string): void => void closing.set(at, (closing.get(at) ?? '') + what);
  const intoBlock = (block: ts.Node): void => {
    open(block.getStart(source) + 1, `${hit()};`);
  };
  const statement = (of: ts.Statement): (() => void) => {
    if (ts.isBlock(of)) {
      intoBlock(of);
      return () => undefined;
    }
    open(of.getStart(source), `{${hit()};`);
    return () => {
      close(of.getEnd(), '}');
    };
  };
  const expression = (of: ts.Expression): (() => void) => {
    open(of.getStart(source), `(${hit()},`);
    return () => {
      close(of.getEnd(), ')');
    };
  };

  const visit = (node: ts.Node): void => {
    if (ts.isTypeNode(node) || ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node)) return;
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) return;
    if (ts.isStringLiteralLike(node) && node.text.length > 0 && node.text.length <= WORD_MAX) words.add(node.text);
    if (ts.isNumericLiteral(node)) words.add(node.text);
    const after: (() => void)[] = [];
    if (ts.isFunctionLike(node)) {
      const { body } = node as { body?: ts.Node };
      if (body !== undefined && ts.isBlock(body)) intoBlock(body);
      else if (body !== undefined) after.push(expression(body as ts.Expression));
    } else if (ts.isIfStatement(node)) {
      after.push(statement(node.thenStatement));
      if (node.elseStatement !== undefined) after.push(statement(node.elseStatement));
      else {
        const missing = ` else ${hit()};`;
        after.push(() => {
          close(node.getEnd(), missing);
        });
      }
    } else if (
      ts.isForStatement(node) ||
      ts.isForOfStatement(node) ||
      ts.isForInStatement(node) ||
      ts.isWhileStatement(node) ||
      ts.isDoStatement(node)
    ) {
      after.push(statement(node.statement));
    } else if (ts.isConditionalExpression(node)) {
      after.push(expression(node.whenTrue), expression(node.whenFalse));
    } else if (ts.isBinaryExpression(node) && isShortcut(node.operatorToken.kind)) {
      after.push(expression(node.right));
    } else if (ts.isCaseOrDefaultClause(node)) {
      const colon = node.getChildren(source).find((child) => child.kind === ts.SyntaxKind.ColonToken);
      if (colon !== undefined) open(colon.getEnd(), `${hit()};`);
    } else if (ts.isCatchClause(node)) {
      intoBlock(node.block);
    }
    ts.forEachChild(node, visit);
    for (const end of after) end();
  };
  visit(source);

  const places = [...new Set([...opening.keys(), ...closing.keys()])].sort((one, other) => one - other);
  let written = '';
  let from = 0;
  for (const at of places) {
    written += text.slice(from, at) + (closing.get(at) ?? '') + (opening.get(at) ?? '');
    from = at;
  }
  return { text: written + text.slice(from), words: [...words], counters: counter - first };
}

function isShortcut(kind: ts.SyntaxKind): boolean {
  return (
    kind === ts.SyntaxKind.AmpersandAmpersandToken ||
    kind === ts.SyntaxKind.BarBarToken ||
    kind === ts.SyntaxKind.QuestionQuestionToken
  );
}
