"""Chapter 5, images from images: edit a prompt and keep the rest of the image, or compose several subjects.

alignment           two prompts, token by token
groups              a source and its targets in one batch
local_blend         keep the source outside the edited region
exchange            exchanging map columns without computing maps, in cross-attention and joint attention
prompt_to_prompt    prompt-to-prompt, plain and by relevance
walks               schedulers that record, solve for and replay a path between an image and noise
inversion           real images: the noise from which they can be regenerated
excitement          the loss of Attend-and-Excite, computed from maps
attend_and_excite   Attend-and-Excite, plain and by relevance
neglected           several subjects without a gradient: strengthen the one that gets least attention
patch               activation patching between prompts
baselines/          other methods to compare with, one file each
"""
