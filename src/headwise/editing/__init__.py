"""Chapter 5, images from pictures: edit a prompt and keep the rest, compose several subjects.

alignment           two prompts, token by token
groups              a source and its targets in one batch
local_blend         keep the source outside the edited region
exchange            map columns exchanged without maps, in cross-attention and in joint attention
prompt_to_prompt    prompt-to-prompt, plain and by relevance
walks               schedulers that record, solve and replay a way between an image and noise
inversion           real pictures: the noise they can be generated from again
excitement          the loss of Attend-and-Excite, from maps
attend_and_excite   Attend-and-Excite, plain and by relevance
neglected           several subjects without a gradient: the least attended one is turned up
patch               activation patching between prompts
baselines/          other methods, one file each, to be compared with
"""
