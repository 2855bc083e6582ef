import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

/** Folder → what it may not import at run time. These are the arrows of the README, enforced. */
const layers = {
  "src/steps/**": [
    "**/api/**",
    "**/backends/**",
    "**/firewall/**",
    "**/store/**",
    "**/driver.ts",
    "express",
    "netlink",
    "koffi",
  ],
  "src/kernel/**": [
    "**/steps/**",
    "**/firewall/**",
    "**/api/**",
    "**/backends/**",
    "**/store/**",
    "**/driver.ts",
    "express",
  ],
  "src/firewall/**": [
    "**/api/**",
    "**/backends/**",
    "**/store/**",
    "**/driver.ts",
    "express",
    "netlink",
    "koffi",
  ],
  "src/backends/**": [
    "**/api/**",
    "**/store/**",
    "**/driver.ts",
    "**/kernel/host.ts",
    "express",
    "netlink",
    "koffi",
  ],
  "src/firewalld/**": [
    "**/api/**",
    "**/backends/**",
    "**/kernel/**",
    "**/store/**",
    "**/driver.ts",
    "express",
    "netlink",
    "koffi",
  ],
  "src/reconcile/**": ["**/api/**", "**/backends/**", "express", "netlink", "koffi"],
  "src/store/**": ["**/api/**", "**/backends/**", "**/driver.ts", "express", "netlink"],
  "src/docker/**": [
    "**/api/**",
    "**/backends/**",
    "**/driver.ts",
    "**/kernel/host.ts",
    "express",
    "netlink",
    "koffi",
  ],
  "src/api/**": ["**/kernel/host.ts", "**/store/**", "netlink", "koffi"],
};

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
  ...Object.entries(layers).map(([folder, banned]) => ({
    files: [`${folder}/*.ts`],
    rules: {
      "@typescript-eslint/no-restricted-imports": [
        "error",
        { patterns: banned.map((pattern) => ({ group: [pattern], allowTypeImports: true })) },
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
