import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

/**
 * Folder of src/ → those that it may import at run time beside itself and the files of src/. These are the arrows of the
 * README, enforced.
 */
const below = {
  kernel: [],
  docker: [],
  relay: ["kernel"],
  firewall: ["kernel"],
  steps: ["kernel"],
  store: ["kernel"],
  backends: ["firewall", "kernel", "relay", "steps"],
  reconcile: ["kernel", "steps"],
  api: ["kernel"],
  cli: ["backends", "store"],
};
/** Package → the only folder that uses it. */
const packages = { commander: "cli", express: "api", koffi: "kernel", lmdb: "store", netlink: "kernel" };
/** What builds the others, and is handed to those that need it. */
const givenTo = ["**/daemon.ts", "**/driver.ts", "**/main.ts"];

function bannedIn(folder) {
  const others = Object.keys(below).filter((other) => other !== folder && !below[folder].includes(other));
  const paths = [
    ...others.map((other) => `**/${other}/**`),
    ...givenTo,
    ...(folder === "kernel" ? [] : ["**/kernel/host.ts"]),
  ];
  const foreign = Object.keys(packages).filter((name) => packages[name] !== folder);
  return [
    ...paths.map((path) => ({ group: [path] })),
    ...foreign.map((name) => ({ regex: `^${name}(/|$)` })),
  ];
}

export default defineConfig(
  { ignores: ["dist/"] },
  ...tseslint.configs.strictTypeChecked,
  ...tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      // Asynchronous by contract, whether or not one implementation waits.
      "@typescript-eslint/require-await": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  {
    files: ["src/**/*.ts"],
    rules: {
      "no-console": "error",
      "max-lines": ["error", { max: 300, skipBlankLines: true, skipComments: true }],
      "max-lines-per-function": ["error", { max: 50, skipBlankLines: true, skipComments: true }],
    },
  },
  ...Object.keys(below).map((folder) => ({
    files: [`src/${folder}/**/*.ts`],
    rules: {
      "@typescript-eslint/no-restricted-imports": [
        "error",
        { patterns: bannedIn(folder).map((pattern) => ({ ...pattern, allowTypeImports: true })) },
      ],
    },
  })),
  {
    files: ["test/**/*.ts"],
    rules: {
      // mocha's describe and it return what nobody waits for.
      "@typescript-eslint/no-floating-promises": "off",
    },
  },
  { files: ["**/*.js"], extends: [tseslint.configs.disableTypeChecked] },
);
