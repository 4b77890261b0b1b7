// Play a policy that policystore exported: observations in, actions out, as JSON.
//
//   npm install
//   node play.mjs main.onnx < episodes.json
//
// The input is a list of episodes. An episode is a list of observations, in the structure of the
// environment's observation space: numbers, lists, and objects for Dict spaces. The output is the
// same list with an action in the place of each observation.

import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";

import { loadPlayer } from "./player.mjs";

try {
  if (!process.argv[2]) throw new Error("usage: node play.mjs FILE.onnx < episodes.json");
  const player = await loadPlayer(await readFile(process.argv[2]));
  console.log(JSON.stringify(await play(player, await readEpisodes())));
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}

async function readEpisodes() {
  const written = await text(process.stdin);
  let episodes;
  try {
    episodes = JSON.parse(written);
  } catch (error) {
    throw new Error(`the input is no JSON: ${error.message}`);
  }
  if (!Array.isArray(episodes) || !episodes.every(Array.isArray)) {
    throw new Error("the input is a list of episodes, each a list of observations: [[[0.1, 0.2]]]");
  }
  return episodes;
}

async function play(player, episodes) {
  const played = [];
  for (const observations of episodes) {
    player.reset();
    const actions = [];
    for (const observation of observations) actions.push(await player.act(observation));
    played.push(actions);
  }
  return played;
}
