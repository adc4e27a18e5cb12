// OpenAI's client for Node: `parse` of an answer, whole and as a stream, and of a call.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const Step = z.object({ colour: z.enum(["red", "green"]), coats: z.number().int().min(1).max(9) });
const Plan = z.object({ steps: z.array(Step).min(1).max(2), is_last: z.boolean().nullable() });

const client = new OpenAI();
const asked = { model: "chat", messages: [{ role: "user", content: "What is to be painted, and in which order?" }] };
const response_format = zodResponseFormat(Plan, "plan");
const tools = [zodFunction({ name: "paint", parameters: Plan })];

const answer = await client.chat.completions.parse({ ...asked, response_format });
const call = await client.chat.completions.parse({ ...asked, tools, tool_choice: "required" });
const streamed = await client.chat.completions.stream({ ...asked, response_format }).finalChatCompletion();
console.log(
  JSON.stringify({
    parse: answer.choices[0].message.parsed,
    "parse a call": call.choices[0].message.tool_calls[0].function.parsed_arguments,
    stream: streamed.choices[0].message.parsed,
  }),
);
