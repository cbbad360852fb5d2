-- The rooms that a user's sockets are in, in no order: ARGV is namespace, user.
local found = {}
for _, field in ipairs(call('HKEYS', STAYS .. ARGV[1] .. '\0' .. ARGV[2])) do
  if string.sub(field, 1, 1) == 'r' then
    found[#found + 1] = string.sub(field, 2)
  end
end
return found
