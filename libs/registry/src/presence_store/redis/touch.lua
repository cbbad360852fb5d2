-- A gateway lives: ARGV is gateway, now. Answers whether it is known.
local known = call('HEXISTS', NUMBERS, ARGV[1])
if known == 1 then
  call('ZADD', GATEWAYS, 'GT', ARGV[2], ARGV[1])
end
return known
