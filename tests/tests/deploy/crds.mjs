// Holds custom resources against their schemas: a JSON list on standard input, mistakes as a JSON list on standard
// output. Wrong types and missing fields are found, fields that no schema knows are not. Usage: node crds.mjs DIRECTORY, where the packages @kubernetes-models/* are installed.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const PACKAGES = {
  "cert-manager.io": "cert-manager",
  "external-secrets.io": "external-secrets",
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

const directory = process.argv[2];
const mistakes = [];

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const { apiVersion, kind, metadata } = object;
  const [group] = apiVersion.split("/");
  const name = `${kind} ${metadata.name}`;
  const known = PACKAGES[group];
  if (!known) {
    mistakes.push(`${name}: no schema for ${apiVersion}`);
    continue;
  }
  const file = join(directory, "node_modules/@kubernetes-models", known, apiVersion, `${kind}.js`);
  const model = await import(file);
  try {
    new model[kind](object).validate();
  } catch (error) {
    mistakes.push(`${name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(mistakes));
